#include "device/fibre.h"

#include <cstdint>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#define WEFT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WEFT_ASAN 1
#endif
#endif
#if defined(WEFT_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif

namespace weft {
namespace {

#if defined(WEFT_ASAN)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

// Tells AddressSanitizer that the stack changes; nothing otherwise.
void start_switch([[maybe_unused]] void** kept, [[maybe_unused]] const void* bottom, [[maybe_unused]] size_t size) {
#if defined(WEFT_ASAN)
  __sanitizer_start_switch_fiber(kept, bottom, size);
#endif
}
void finish_switch([[maybe_unused]] void* kept, [[maybe_unused]] const void** bottom, [[maybe_unused]] size_t* size) {
#if defined(WEFT_ASAN)
  __sanitizer_finish_switch_fiber(kept, bottom, size);
#endif
}

}  // namespace

Fibre::Fibre(std::function<void()> body) : body_(std::move(body)), stack_(new char[kStackBytes]) {
  ::getcontext(&context_);
  context_.uc_stack.ss_sp = stack_.get();
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  const auto self = reinterpret_cast<uint64_t>(this);
  ::makecontext(&context_, reinterpret_cast<void (*)()>(&Fibre::enter), 2, unsigned(self), unsigned(self >> 32));
}

void Fibre::enter(unsigned low, unsigned high) {
  auto* self = reinterpret_cast<Fibre*>(uint64_t(low) | uint64_t(high) << 32);
  finish_switch(nullptr, &self->home_bottom_, &self->home_size_);
  self->body_();
  self->done_ = true;
  start_switch(nullptr, self->home_bottom_, self->home_size_);
  ::swapcontext(&self->context_, &self->home_);
}

void Fibre::resume() {
  start_switch(&home_fake_stack_, stack_.get(), kStackBytes);
  ::swapcontext(&home_, &context_);
  finish_switch(home_fake_stack_, nullptr, nullptr);
}

void Fibre::give_way() {
  start_switch(&fake_stack_, home_bottom_, home_size_);
  ::swapcontext(&context_, &home_);
  finish_switch(fake_stack_, &home_bottom_, &home_size_);
}

}  // namespace weft
