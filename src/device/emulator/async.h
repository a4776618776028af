// What the emulator's asynchronous machinery (sm90.cc) is made of: acts that happen at some time, and threads that
// sleep. On a thread of a kernel or in an act, unless said otherwise.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "base/types.h"

namespace weft::emulator {

// [thread] `act` happens at some time from now on, those of one `queue` (not null) in their order. uses_shared: the CTA
// must not end before.
void later(std::function<void()> act, const void* queue, bool uses_shared);
// [act] The same for the act's CTA.
void go_on(std::function<void()> act);
// [thread] Until wake(key); others may have been first, so ask again what was waited for.
void sleep(const void* key, const char* what);
void wake(const void* key);
// The run ends, and this is what was found. On a thread it does not return.
void fail(std::string what);
// [thread] Where it is, for messages.
std::string here();
// What the CTA's threads stored before is before what they store from now on.
void order();
// Of this CTA.
size_t dynamic_shared_bytes();
// What sm90.cc keeps for this CTA.
std::shared_ptr<void>& extension();

}  // namespace weft::emulator
