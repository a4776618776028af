// cudaStream_t, for headers that need no more of CUDA and that the emulator's tests read.
#pragma once

using cudaStream_t = struct CUstream_st*;
