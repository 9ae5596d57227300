// A GPU that torch believes in and that does nothing: enough for tensors without data
// (torch._subclasses.FakeTensorMode) to live on "cuda" and for autograd to run there. Loaded before
// a torch without CUDA (pretended.py).

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using namespace c10;
constexpr DeviceType cuda = DeviceType::CUDA;

struct Guard final : impl::DeviceGuardImplInterface {
  static constexpr DeviceType static_type = cuda;
  DeviceType type() const override { return cuda; }
  Device exchangeDevice(Device) const override { return {cuda, 0}; }
  Device getDevice() const override { return {cuda, 0}; }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const override { return Stream(Stream::DEFAULT, {cuda, 0}); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
};

}  // namespace

C10_REGISTER_GUARD_IMPL(CUDA, Guard)

namespace at {

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  void init() const override {}
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};

REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace at
