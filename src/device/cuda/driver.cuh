// Driver functions, taken from the installed driver at run time so that the program starts without one.
#pragma once
#include <cuda.h>

#include "base/status.h"

namespace weft {

// Every driver function that weft calls. Grows by one line here and one in driver.cu.
struct CudaDriver {
  decltype(&cuGetErrorString) get_error_string;
  decltype(&cuMemGetAllocationGranularity) mem_get_allocation_granularity;
  decltype(&cuMemCreate) mem_create;
  decltype(&cuMemRelease) mem_release;
  decltype(&cuMemExportToShareableHandle) mem_export;
  decltype(&cuMemImportFromShareableHandle) mem_import;
  decltype(&cuMemAddressReserve) mem_address_reserve;
  decltype(&cuMemAddressFree) mem_address_free;
  decltype(&cuMemMap) mem_map;
  decltype(&cuMemUnmap) mem_unmap;
  decltype(&cuMemSetAccess) mem_set_access;
  decltype(&cuTensorMapEncodeTiled) tensor_map_encode_tiled;

  // Loaded once per process. Errors: kUnavailable without a driver, kUnimplemented naming a function that it lacks.
  static Result<const CudaDriver*> get();
};

// ok, or a kIo fault (kResourceExhausted for lack of memory): "<what>: <the driver's text>".
Status driver_status(const CudaDriver& driver, CUresult result, const char* what);

#define WEFT_DRIVER_TRY(driver, call) WEFT_TRY(::weft::driver_status((driver), (driver).call, #call))

// How many CUDA devices this process sees: 0 without a driver or device.
int cuda_device_count();
// "NVIDIA H200", of the first device. Errors: kUnavailable where there is none.
Result<std::string> cuda_device_name();

}  // namespace weft
