#include "cni/nft/ruleset.h"

#include <nftables/libnftables.h>

#include "base/log.h"

namespace berth::cni::nft {

Result<std::unique_ptr<Ruleset>> Ruleset::Open(std::string table, std::function<Contents()> contents) {
  std::unique_ptr<Ruleset> ruleset(new Ruleset(std::move(table), std::move(contents)));
  TRY(ruleset->elements_.Open());
  return ruleset;
}

Result<std::string> Ruleset::RunText(const std::string& commands) {
  std::unique_ptr<nft_ctx, void (*)(nft_ctx*)> ctx(nft_ctx_new(NFT_CTX_DEFAULT), nft_ctx_free);
  if (!ctx) return Err(Code::kResourceExhausted, "nftables: out of memory");
  // Without buffers the library would write to our standard output.
  nft_ctx_buffer_output(ctx.get());
  nft_ctx_buffer_error(ctx.get());
  if (nft_run_cmd_from_buffer(ctx.get(), commands.c_str()) == 0)
    return std::string(nft_ctx_get_output_buffer(ctx.get()));
  std::string_view why = nft_ctx_get_error_buffer(ctx.get());
  return Err(Code::kFailedPrecondition, "nftables table {}: {}", table_,
             why.substr(0, std::min(why.find('\n'), why.size())));
}

Result<void> Ruleset::Sync(const Deadline& until) {
  std::lock_guard lock(mutex_);
  std::string commands;
  if (!TRY(elements_.Intact(table_, until))) {
    std::string admin[2];
    for (int i : {0, 1})
      if (auto listing = RunText(fmt::format("list chain {} {} admin", i == 0 ? "ip" : "ip6", table_)))
        admin[i] = RulesOf(*listing);
    // `add` first, so that `delete` does not fail when there is none.
    for (const char* family : {"ip", "ip6"})
      commands += fmt::format("add table {0} {1}\ndelete table {0} {1}\n", family, table_);
    commands += TableText(table_, admin[0], admin[1]);
  }
  commands += ContentsText(table_, contents_());
  TRY(RunText(commands));
  return {};
}

Result<bool> Ruleset::Repair(const Deadline& until) {
  if (TRY(elements_.Intact(table_, until))) return false;
  TRY(Sync(until));
  log::Warn("nftables.restored", {{"table", table_}});
  return true;
}

Result<void> Ruleset::Publish(const std::vector<PublishedPort>& ports, const Deadline& until) {
  {
    std::shared_lock lock(mutex_);
    auto done = elements_.Apply(table_, ports, true, until);
    int err = done ? 0 : done.error().sys;
    if (err != ENOENT && err != EEXIST && err != EBUSY) return done;
  }
  // The table is gone, or a key is there with a value that the ledger does not know.
  return Sync(until);
}

Result<void> Ruleset::Unpublish(const std::vector<PublishedPort>& ports, const Deadline& until) {
  std::shared_lock lock(mutex_);
  auto done = elements_.Apply(table_, ports, false, until);
  if (done || done.error().sys != ENOENT) return done;
  // Some are gone already, so the batch changed nothing: remove what is left one by one.
  for (const PublishedPort& port : ports)
    if (auto one = elements_.Apply(table_, {port}, false, until); !one && one.error().sys != ENOENT) return one;
  return {};
}

Result<void> Ruleset::Remove() {
  std::lock_guard lock(mutex_);
  std::string commands;
  for (const char* family : {"ip", "ip6"})
    commands += fmt::format("add table {0} {1}\ndelete table {0} {1}\n", family, table_);
  TRY(RunText(commands));
  return {};
}

}  // namespace berth::cni::nft
