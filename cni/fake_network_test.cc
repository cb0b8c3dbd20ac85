#include "cni/fake_network.h"

#include "cni/network_contract.h"

namespace berth::cni {
namespace {

struct FakeWorld {
  FakeNetwork fake;
  uint16_t next = 8080;
  Network& network() { return fake; }
  Attachment Pod(std::vector<PortMapping> ports = {}) { return {.pod = NewPodId(), .ports = std::move(ports)}; }
  void DropNamespace(const PodId&) {}
  uint16_t FreePort() { return next++; }
  bool Usable() { return true; }
};

}  // namespace

INSTANTIATE_TYPED_TEST_SUITE_P(Fake, NetworkContract, FakeWorld);

}  // namespace berth::cni
