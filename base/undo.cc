#include "base/undo.h"

#include "base/log.h"

namespace berth {

bool Undo::Run() {
  bool all = true;
  const auto run = [&](Named named) {
    if (auto done = named.step(); !done) {
      log::Warn("undo.failed", {{"step", named.what}, {"error", done.error()}});
      all = false;
    }
  };
  // A step may itself add steps; taking each off first also keeps a second Run from repeating it.
  while (!steps_.empty()) {
    Named named = std::move(steps_.back());
    steps_.pop_back();
    run(std::move(named));
  }
  Named last = std::exchange(last_, {});
  if (last.step) {
    if (all) run(std::move(last));
    else log::Warn("undo.kept", {{"step", last.what}, {"reason", "an earlier step failed"}});
  }
  return all;
}

}  // namespace berth
