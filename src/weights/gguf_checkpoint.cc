#include <string_view>
#include <utility>

#include "weights/checkpoint.h"

namespace weft {
namespace {

// "model.layers.7.self_attn.q_proj.weight" -> "blk.7.attn_q.weight"; names outside the table stay as they are.
std::string gguf_name(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kTop[] = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"},
  };
  static constexpr std::pair<std::string_view, std::string_view> kLayer[] = {
      {"input_layernorm", "attn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"post_attention_layernorm", "ffn_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"mlp.gate", "ffn_gate_inp"},
      {"mlp.experts.gate_proj", "ffn_gate_exps"},
      {"mlp.experts.up_proj", "ffn_up_exps"},
      {"mlp.experts.down_proj", "ffn_down_exps"},
  };
  for (const auto& [ours, theirs] : kTop) {
    if (name == ours) return std::string(theirs);
  }
  constexpr std::string_view kPrefix = "model.layers.";
  if (!name.starts_with(kPrefix)) return std::string(name);
  const std::string_view rest = name.substr(kPrefix.size());
  const size_t dot = rest.find('.'), last = rest.rfind('.');
  if (dot == std::string_view::npos || last <= dot) return std::string(name);
  const std::string_view layer = rest.substr(0, dot), kind = rest.substr(dot + 1, last - dot - 1);
  for (const auto& [ours, theirs] : kLayer) {
    if (kind == ours) return fmt::format("blk.{}.{}{}", layer, theirs, rest.substr(last));
  }
  return std::string(name);
}

class GgufCheckpoint : public Checkpoint {
 public:
  GgufCheckpoint(std::shared_ptr<const GgufFile> file, i64 head_dim, bool permuted)
      : file_(std::move(file)), head_dim_(head_dim), permuted_(permuted) {}

  Result<TensorView> tensor(const std::string& name) const override {
    const TensorView* view = find(name);
    if (view == nullptr) {
      return error(Code::kNotFound, "{}: tensor '{}' is missing", file_->file().path(), gguf_name(name));
    }
    return *view;
  }

  bool has(const std::string& name) const override { return find(name) != nullptr; }

  i64 file_row(const std::string& name, i64 row) const override {
    const bool query_or_key = name.find(".q_proj.") != std::string::npos || name.find(".k_proj.") != std::string::npos;
    if (!permuted_ || !query_or_key) return row;
    const i64 head = row / head_dim_, within = row % head_dim_, half = head_dim_ / 2;
    return head * head_dim_ + 2 * (within % half) + within / half;
  }

  std::vector<NamedTensor> tensors() const override {
    std::vector<NamedTensor> all;
    for (const std::string_view name : file_->names()) all.push_back({std::string(name), *file_->tensor(name)});
    return all;
  }

  void drop_pages() const override { file_->file().drop(file_->file().bytes()); }

 private:
  // Seed-OSS files name the norm before the MLP after what comes before it.
  const TensorView* find(const std::string& name) const {
    const std::string theirs = gguf_name(name);
    const TensorView* view = file_->tensor(theirs);
    constexpr std::string_view kNorm = ".ffn_norm.weight";
    if (view || !theirs.ends_with(kNorm)) return view;
    return file_->tensor(theirs.substr(0, theirs.size() - kNorm.size()) + ".post_attention_norm.weight");
  }

  const std::shared_ptr<const GgufFile> file_;
  const i64 head_dim_;
  const bool permuted_;
};

}  // namespace

std::unique_ptr<Checkpoint> make_gguf_checkpoint(std::shared_ptr<const GgufFile> file, i64 head_dim, bool permuted) {
  return std::make_unique<GgufCheckpoint>(std::move(file), head_dim, permuted);
}

}  // namespace weft
