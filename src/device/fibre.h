// A fibre: a body on a stack of its own that one thread resumes and that gives way. Simulators run ranks, CTAs and
// lanes so, in an order that they choose. (ThreadSanitizer does not follow them.)
#pragma once
#include <ucontext.h>

#include <cstddef>
#include <functional>
#include <memory>

namespace weft {

class Fibre {
 public:
  // `body` begins with the first resume(). Stacks are memory that is touched as it is used.
  explicit Fibre(std::function<void()> body);
  // A fibre that is not done leaves what stands on its stack as it is.
  ~Fibre() = default;
  Fibre(const Fibre&) = delete;
  Fibre& operator=(const Fibre&) = delete;

  // Until the body gives way or ends. Not on a fibre, not when done.
  void resume();
  // [on this fibre] Back to resume().
  void give_way();
  bool done() const { return done_; }

 private:
  static void enter(unsigned low, unsigned high);

  std::function<void()> body_;
  std::unique_ptr<char[]> stack_;
  ucontext_t context_, home_;
  bool done_ = false;
  // What AddressSanitizer wants to know of a change of stacks.
  void *fake_stack_ = nullptr, *home_fake_stack_ = nullptr;
  const void* home_bottom_ = nullptr;
  size_t home_size_ = 0;
};

}  // namespace weft
