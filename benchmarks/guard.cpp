// What torch asks of a CUDA device, for fake tensors in a build of torch without one: its streams,
// which are all the same, and for a backward pass whether there is such a device.
#include <ATen/DeviceAccelerator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <optional>

namespace {
constexpr auto CUDA = c10::DeviceType::CUDA;
const c10::Device device(CUDA, 0);
const c10::Stream stream(c10::Stream::DEFAULT, device);
bool registered = false;

struct Guard final : c10::impl::NoOpDeviceGuardImpl<CUDA> {
  c10::Device getDevice() const override { return device; }
  c10::Device exchangeDevice(c10::Device) const override { return device; }
  c10::Stream getStream(c10::Device) const noexcept override { return stream; }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return stream; }
};

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool isBuilt() const override { return registered; }
  bool isAvailable() const override { return registered; }
  bool hasCUDA() const override { return registered; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return registered; }
  c10::DeviceIndex deviceCount() const override { return registered; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
};
} // namespace

// These two replace torch's own if this library is loaded before torch.
namespace at {
const CUDAHooksInterface& detail::getCUDAHooks() {
  static Hooks hooks;
  return hooks;
}

std::optional<c10::DeviceType> accelerator::getAccelerator(bool) {
  return registered ? std::optional(CUDA) : std::nullopt;
}
} // namespace at

extern "C" void register_guard(bool on) {
  static Guard guard;
  registered = on;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(CUDA)].store(on ? &guard : nullptr);
}
