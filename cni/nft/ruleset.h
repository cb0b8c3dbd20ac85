#pragma once
// Our two tables in the kernel, kept as the ledger says. Thread-safe. libnftables stays in this folder.
#include <functional>
#include <shared_mutex>
#include <string>

#include "cni/nft/elements.h"

namespace berth::cni::nft {

class Ruleset {
 public:
  // `contents` tells what the sets must hold whenever they are rebuilt; called without any of our locks held but the
  // ruleset's own.
  static Result<std::unique_ptr<Ruleset>> Open(std::string table, std::function<Contents()> contents);

  // Makes or replaces the tables when they are missing or of another layout, and sets all elements to `contents`; one
  // transaction, so that no packet sees half of it.
  Result<void> Sync(const Deadline& until);
  Result<bool> Intact(const Deadline& until) { return elements_.Intact(table_, until); }
  // Sync only when the tables are not ours any more (`nft flush ruleset`). True when it had to.
  Result<bool> Repair(const Deadline& until);
  // The ledger already says so: when the tables are damaged, a rebuild from it takes the place of the batch.
  Result<void> Publish(const std::vector<PublishedPort>& ports, const Deadline& until);
  Result<void> Unpublish(const std::vector<PublishedPort>& ports, const Deadline& until);
  // Removes both tables (tests, uninstallation).
  Result<void> Remove();

 private:
  Ruleset(std::string table, std::function<Contents()> contents)
      : table_(std::move(table)), contents_(std::move(contents)) {}
  Result<std::string> RunText(const std::string& commands);  // output; libnftables' own words in errors
  const std::string table_;
  const std::function<Contents()> contents_;
  ElementSocket elements_;
  // Exclusive for a rebuild: elements that are added between its look at the ledger and its commit would be lost.
  std::shared_mutex mutex_;
};

}  // namespace berth::cni::nft
