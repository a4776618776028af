"""A rank alone: whatever is wrong with a call is refused with an exception that names the argument."""

import numpy as np

import weft

SHAPE = {
    "max_num_tokens": 4,
    "num_experts": 3,
    "experts_per_token": 2,
    "rank": 0,
    "world_size": 1,
    "dp_size": 1,
    "hidden_dim": 8,
    "hidden_dim_bytes": 32,
    "hidden_dim_scale_bytes": 8,
}


def refused(kind, text, call, **arguments):
    try:
        call(**arguments)
    except kind as fault:
        assert text in str(fault), f"expected {text!r}, found {str(fault)!r}"
        assert isinstance(fault, weft.Error)
    else:
        raise AssertionError(f"nothing raised, expected {text!r}")


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


op = weft.AllToAll.intranode(**SHAPE, expert_capacity=2)
x = np.zeros((4, 8), np.float32)
to = {
    "out_expert_num_tokens": np.zeros(3, np.int32),
    "out_expert_x": np.zeros((3, 2, 8), np.float32),
    "out_expert_x_scale": np.zeros((3, 2, 2), np.float32),
    "dp_x": x,
    "dp_x_scale": np.zeros((4, 2), np.float32),
    "indices": np.array([[0, 1], [1, 2], [2, 0], [-1, -1]], np.int32),
    "bound_m": None,
}
back = {
    "out_tokens": np.zeros((4, 8), np.float32),
    "indices": to["indices"],
    "weights": np.ones((4, 2), np.float32),
    "expert_y": np.zeros((3, 2, 8), np.float32),
    "bound_m": None,
}
op.dispatch(**to)
op.combine(**back)

for name, wrong, text in [
    ("dp_x", x[:3], "expected 4 rows of 32 bytes, found f32 [3, 8]"),
    ("dp_x", x.astype(np.float16), "expected 4 rows of 32 bytes, found f16 [4, 8]"),
    ("dp_x", np.zeros((4, 16), np.float32)[:, ::2], "has stride 2, expected 1"),
    ("dp_x", [[0.0] * 8] * 4, "expected a tensor, found list"),
    ("dp_x", x.astype(np.complex64), "not supported"),
    ("dp_x_scale", None, "expected 4 rows of 8 bytes"),
    ("dp_x_scale", np.zeros((4, 3), np.float32), "expected 4 rows of 8 bytes, found f32 [4, 3]"),
    ("indices", to["indices"].astype(np.int64), "expected i32 [-1, 2], found i64 [4, 2]"),
    ("indices", to["indices"][:, :1], "expected i32 [-1, 2], found i32 [4, 1]"),
    ("indices", np.zeros((5, 2), np.int32), "more than max_num_tokens = 4"),
    ("indices", None, "expected i32"),
    ("bound_m", 3, "expected a tensor, found int"),
    ("bound_m", np.zeros(2, np.uint32), "expected one u32, found i32 [2]"),
    ("out_expert_x", to["out_expert_x"][:2], "expected dense [3, 2] rows of 32 bytes, found f32 [2, 2, 8]"),
    ("out_expert_x", read_only(to["out_expert_x"]), "readonly"),
    ("out_expert_x_scale", to["out_expert_x"], "expected dense [3, 2] rows of 8 bytes"),
    ("out_expert_num_tokens", np.zeros(3, np.int64), "expected i32 [3], found i64 [3]"),
]:
    refused(weft.InvalidArgument, f"dispatch: {name}: ", op.dispatch, **to | {name: wrong})
    refused(ValueError, text, op.dispatch, **to | {name: wrong})
for name, wrong, text in [
    ("out_tokens", np.zeros((3, 8), np.float32), "expected f32 [4, 8], found f32 [3, 8]"),
    ("out_tokens", np.zeros((4, 8), np.int32), "expected f32, bf16 or f16, found i32"),
    ("weights", np.ones((4, 2), np.float64), "64-bit elements"),
    ("weights", np.ones((4, 3), np.float32), "expected f32 [4, 2], found f32 [4, 3]"),
    ("expert_y", np.zeros((3, 2, 7), np.float32), "expected f32 [3, 2, 8], found f32 [3, 2, 7]"),
    ("expert_y", np.zeros((5, 8), np.float32), "the dispatch brought 6 rows, found f32 [5, 8]"),
    ("bound_m", np.array([2], np.uint32), "the dispatch had 4 tokens, found 2"),
]:
    refused(weft.InvalidArgument, f"combine: {name}: ", op.combine, **back | {name: wrong})
    refused(ValueError, text, op.combine, **back | {name: wrong})

for call, arguments in ((op.dispatch, to), (op.combine, back)):
    refused(weft.InvalidArgument, "receive without its send", call, **arguments, do_send=False)
    refused(weft.InvalidArgument, "neither do_send nor do_recv", call, **arguments, do_send=False, do_recv=False)
    call(**arguments, do_recv=False)
    refused(weft.InvalidArgument, "the last send still waits for its receive", call, **arguments)
    call(**arguments, do_send=False)

# A dispatch that ends but leaves something out says so, and combine may still be called.
crowd = to | {"indices": np.zeros((4, 2), np.int32) + np.array([0, -1], np.int32)}
refused(weft.ResourceExhausted, "expert 0: 4 rows came, capacity 2; 2 pairs are left out", op.dispatch, **crowd)
assert op.dropped_pairs == 2 and to["out_expert_num_tokens"].tolist() == [2, 0, 0]
op.combine(**back | {"indices": crowd["indices"]})
refused(weft.ResourceExhausted, "bound_m of rank 0: 1 tokens", op.dispatch, **to | {"bound_m": np.array([5], np.uint32)})
stray = to | {"indices": np.array([[7, 0]] * 4, np.int32)}
refused(weft.InvalidArgument, "indices: 7 of rank 0 is not one of 3 experts", op.dispatch, **stray)

op.destroy()
op.destroy()
refused(weft.InvalidArgument, "already destroyed", op.dispatch, **to)
plain = weft.AllToAll.intranode(**SHAPE | {"hidden_dim_scale_bytes": 0})
refused(weft.InvalidArgument, "dp_x_scale: expected None", plain.dispatch, **to)

for field, wrong, text in [
    ("experts_per_token", 4, "experts_per_token: expected 1 to 3, found 4"),
    ("world_size", 2, "rank, world_size: 0 of 2 is rank 0 of 1 here"),
    ("dp_size", 2, "dp_size: expected a divisor of world_size 1, found 2"),
    ("hidden_dim_bytes", 0, "hidden_dim_bytes: expected 1 to"),
    ("device", "tpu", "device: expected cpu or cuda, found 'tpu'"),
    ("combine_dtype", "int8", "combine_dtype: expected float32, bfloat16 or float16, found 'int8'"),
    ("combine_mode", "fast", "combine_mode: expected pre_reduced or exact, found 'fast'"),
    ("threads", -1, "threads: expected 0 to 128, found -1"),
    ("deadline", 0.0, "deadline: expected more than 0"),
]:
    refused(weft.InvalidArgument, text, weft.AllToAll.intranode, **SHAPE | {field: wrong})
if not weft.has_cuda:
    refused(NotImplementedError, "built without CUDA", weft.AllToAll.intranode, **SHAPE | {"device": "cuda"})
refused(weft.Unimplemented, "several hosts", weft.AllToAll.internode, **SHAPE)
refused(weft.InvalidArgument, "has joined a world already", weft.init)
print("every refusal names its argument")
