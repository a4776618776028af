// take_rows: y[i] = x[index[i]].
#pragma once
#include "device/exec.h"

namespace weft {

// x [rows, width] f32, row stride allowed; index [n] i32, values in [0, rows) (trusted); y [n, width] f32, must not
// overlap x. Rows are cut over the team; ends with exec.sync(). Errors: kInvalidArgument naming the tensor.
Status take_rows(Exec& exec, const TensorView& x, const TensorView& index, const TensorView& y);

}  // namespace weft
