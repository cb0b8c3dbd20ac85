#pragma once
// What has to be taken back when an operation fails half way.
//
//   Undo undo;
//   undo.Last("drop pod row", [&] { return table.Drop(id); });   // the record goes only if all else worked
//   undo.Add("release address", [&] { return ledger.Release(id); });
//   ...
//   undo.Keep();                                                  // success: nothing is undone
//
// Runs newest first when it goes out of scope, every step even when one fails (failures are logged as `undo.failed`).
// The `Last` step runs only if all others worked: otherwise the row stays, and the next Stop or the collection at start
// finishes from it. Not thread-safe; lives on the stack of one operation.
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"

namespace berth {

class Undo {
 public:
  using Step = std::function<Result<void>()>;
  Undo() = default;
  Undo(const Undo&) = delete;
  Undo& operator=(const Undo&) = delete;
  ~Undo() { Run(); }

  void Add(std::string what, Step step) { steps_.push_back({std::move(what), std::move(step)}); }
  void Last(std::string what, Step step) { last_ = {std::move(what), std::move(step)}; }
  void Keep() {
    steps_.clear();
    last_ = {};
  }
  bool Run();  // true when every step worked; afterwards nothing is left to undo

 private:
  struct Named {
    std::string what;
    Step step;
  };
  std::vector<Named> steps_;
  Named last_;
};

}  // namespace berth
