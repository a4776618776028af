// Checkpoint: a model's parameters by the names Hugging Face gives them, whatever file they come from.
#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "weights/gguf.h"

namespace weft {

struct NamedTensor {
  std::string name;
  TensorView view;
};

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;
  // The parameter as it lies in the file, mapped read-only. Errors: kNotFound naming file and tensor.
  virtual Result<TensorView> tensor(const std::string& name) const = 0;
  virtual bool has(const std::string& name) const = 0;
  // The row of the file's tensor that holds row `row` of the parameter: some formats store query and key rows in
  // another order.
  virtual i64 file_row(const std::string& name, i64 row) const = 0;
  // Every tensor of the files by its name there, in no particular order.
  virtual std::vector<NamedTensor> tensors() const = 0;
  // Gives back the memory of the mapped file; pages are read again if touched.
  virtual void drop_pages() const = 0;
};

// Parameters of a GGUF file of a Llama-like architecture. The names are llama.cpp's (blk.0.attn_q.weight ...).
// `head_dim` undoes its row order of query and key projections where `permuted` says that the file has it: llama.cpp
// stores row pairs (i, i + head_dim / 2) of a head side by side for architecture "llama".
std::unique_ptr<Checkpoint> make_gguf_checkpoint(std::shared_ptr<const GgufFile> file, i64 head_dim, bool permuted);

// Parameters of a Hugging Face folder: model.safetensors, or the files that model.safetensors.index.json names.
// Errors: kNotFound or kDataLoss naming file and tensor; a tensor that two files hold.
Result<std::unique_ptr<Checkpoint>> open_safetensors_checkpoint(const std::filesystem::path& folder);

}  // namespace weft
