// Preloaded by chase.sh: prints the stack of a thread that ends the process by a signal, as module and offset.
#include <execinfo.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <initializer_list>

namespace {

void print_stack(int signal) {
  char head[96];
  const int length = std::snprintf(head, sizeof head, "\nchase: signal %d (%s) on thread %ld\n", signal,
                                   sigabbrev_np(signal), ::syscall(SYS_gettid));
  (void)!::write(STDERR_FILENO, head, size_t(length));
  void* frames[64];
  ::backtrace_symbols_fd(frames, ::backtrace(frames, 64), STDERR_FILENO);
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

// In every thread: a broken stack cannot carry the handler, but a broken heap is what is hunted.
[[maybe_unused]] const bool kInstalled = [] {
  void* first[1];
  ::backtrace(first, 1);  // loads what it needs now, not in a handler under the heap's lock
  struct sigaction action{};
  action.sa_handler = print_stack;
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE}) ::sigaction(signal, &action, nullptr);
  return true;
}();

}  // namespace
