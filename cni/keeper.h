#pragma once
// What happens beside the requests: one thread that puts our tables back when somebody flushed the ruleset, removes
// links whose namespace outlived their pod, and clears UDP flows of published ports.
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cni/netlink/links.h"
#include "cni/nft/ruleset.h"

namespace berth::cni {

class Keeper {
 public:
  // Both outlive it. The thread runs in the namespace of the caller of Start.
  Keeper(nft::Ruleset& ruleset, netlink::SocketPool& sockets, std::string table)
      : ruleset_(ruleset), sockets_(sockets), table_(std::move(table)) {}
  ~Keeper();
  Result<void> Start();

  // The link is unplugged; should it still be there after a while (a namespace that lives on), it is deleted, provided
  // its alias is still this one.
  void Reap(std::string link, std::string alias);
  void FlushUdp(std::vector<nft::PublishedPort> ports);  // others than UDP are passed over

 private:
  struct Doomed {
    std::string link, alias;
    std::chrono::steady_clock::time_point at;
  };
  void Loop(std::stop_token stop);
  bool TablesDeleted();
  void ReapDue();
  void Wake();

  nft::Ruleset& ruleset_;
  netlink::SocketPool& sockets_;
  const std::string table_;
  unique_fd events_;  // nfnetlink, group NFNLGRP_NFTABLES
  unique_fd wake_;
  std::mutex mutex_;
  std::vector<Doomed> doomed_;
  std::vector<nft::PublishedPort> udp_;
  std::jthread thread_;
};

}  // namespace berth::cni
