// TrackedCheckpoint: notices parameters that a file holds and nobody asked for, which would mean another architecture.
#pragma once
#include <set>

#include "weights/checkpoint.h"

namespace weft {

class TrackedCheckpoint : public Checkpoint {
 public:
  // `checkpoint` must outlive this. Used by one thread.
  explicit TrackedCheckpoint(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}
  Result<TensorView> tensor(const std::string& name) const override {
    auto found = checkpoint_.tensor(name);
    if (found.ok()) used_.insert(found->data);
    return found;
  }
  bool has(const std::string& name) const override { return checkpoint_.has(name); }
  i64 file_row(const std::string& name, i64 row) const override { return checkpoint_.file_row(name, row); }
  std::vector<NamedTensor> tensors() const override { return checkpoint_.tensors(); }
  void drop_pages() const override { checkpoint_.drop_pages(); }

  // Names, as in the file, of tensors that tensor() never gave.
  std::vector<std::string> unused() const {
    std::vector<std::string> names;
    for (NamedTensor& tensor : checkpoint_.tensors()) {
      if (!used_.contains(tensor.view.data)) names.push_back(std::move(tensor.name));
    }
    return names;
  }

 private:
  const Checkpoint& checkpoint_;
  mutable std::set<const std::byte*> used_;
};

}  // namespace weft
