// Preloaded by chase.sh: prints the stacks of all threads, as module and offset, where a signal ends the process; that
// of the thread which it hit comes first.
#include <dirent.h>
#include <execinfo.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

constexpr int kAsk = SIGUSR2;
std::atomic<bool> g_dying{false};
std::atomic<int> g_answers{0};

void print_stack(const char* what, int signal, const siginfo_t* info, const void* context) {
  const auto* registers = static_cast<const ucontext_t*>(context)->uc_mcontext.gregs;
  char head[160];
  const int length = std::snprintf(head, sizeof head, "\nchase: %s %d (%s) on thread %ld, address %p, pc %p\n", what,
                                   signal, sigabbrev_np(signal), ::syscall(SYS_gettid), info->si_addr,
                                   reinterpret_cast<void*>(registers[REG_RIP]));
  (void)!::write(STDERR_FILENO, head, size_t(length));
  void* frames[64];
  ::backtrace_symbols_fd(frames, ::backtrace(frames, 64), STDERR_FILENO);
}

void answer(int signal, siginfo_t* info, void* context) {
  if (g_dying) print_stack("meanwhile", signal, info, context);
  ++g_answers;
}

// One thread after another; a thread that does not answer within 0.2 s is left out. Calls nothing that takes the heap.
void ask_others() {
  const int folder = ::open("/proc/self/task", O_RDONLY | O_DIRECTORY);
  alignas(8) char entries[4096];
  for (long bytes; (bytes = ::syscall(SYS_getdents64, folder, entries, sizeof entries)) > 0;)
    for (long at = 0; at < bytes;) {
      const auto* entry = reinterpret_cast<const dirent64*>(entries + at);
      at += entry->d_reclen;
      const long thread = std::atol(entry->d_name);
      if (thread == 0 || thread == ::syscall(SYS_gettid)) continue;
      const int before = g_answers;
      ::syscall(SYS_tgkill, ::getpid(), thread, kAsk);
      for (int wait = 0; wait < 200 && g_answers == before; ++wait) ::usleep(1000);
    }
}

void die(int signal, siginfo_t* info, void* context) {
  if (!g_dying.exchange(true)) {
    print_stack("signal", signal, info, context);
    ask_others();
  }
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

// In every thread: a broken stack cannot carry the handler, but a broken heap is what is hunted.
[[maybe_unused]] const bool kInstalled = [] {
  void* first[1];
  ::backtrace(first, 1);  // loads what it needs now, not in a handler under the heap's lock
  struct sigaction action{};
  action.sa_flags = SA_SIGINFO;
  action.sa_sigaction = answer;
  ::sigaction(kAsk, &action, nullptr);
  action.sa_sigaction = die;
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE}) ::sigaction(signal, &action, nullptr);
  return true;
}();

}  // namespace
