// What it costs to connect a pod: our network in-process, against Debian's CNI plugins loopback, bridge with
// host-local, and portmap, run one after the other as a runtime runs them. Both publish one host port and masquerade.
//
//   berth_bench_cni [rounds] [pods]      defaults 30 and 500
//
// Rounds alternate between the two, with pauses, because the kernel's waits (RCU) hide in tight loops. Everything
// happens in network namespaces of its own. Afterwards our side is measured again with `pods` pods attached.
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>

#include "cni/exec.h"
#include "cni/test_world.h"

namespace berth::cni {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kPause = std::chrono::milliseconds(150);

struct Series {
  std::string name;
  std::vector<double> ms, cpu;
  static double Part(std::vector<double> v, double part) {
    std::sort(v.begin(), v.end());
    return v.empty() ? 0 : v[std::min(v.size() - 1, static_cast<size_t>(part * static_cast<double>(v.size())))];
  }
  double At(double part) const { return Part(ms, part); }
  void Print() const {
    fmt::print("  {:<36} {:9.3f} {:9.3f} {:9.3f} {:9.3f}\n", name, At(0.1), At(0.5), At(0.9), Part(cpu, 0.5));
  }
};

// Processor time of this thread and of the children it has waited for, in ms: what the work costs when others use the
// machine too.
double CpuMs() {
  double ms = 0;
  for (int who : {RUSAGE_THREAD, RUSAGE_CHILDREN}) {
    rusage u{};
    getrusage(who, &u);
    for (const timeval& t : {u.ru_utime, u.ru_stime})
      ms += static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_usec) / 1e3;
  }
  return ms;
}

template <class F>
void Time(Series& s, F f) {
  double cpu = CpuMs();
  auto begin = Clock::now();
  f();
  s.ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
  s.cpu.push_back(CpuMs() - cpu);
}

[[noreturn]] void Die(const std::string& what) {
  fmt::print(stderr, "berth_bench_cni: {}\n", what);
  exit(1);
}

struct Chain {
  struct Plugin {
    std::string type;
    json::Object config;
    bool ports;
  };
  std::vector<Plugin> plugins;
  std::vector<std::string> dirs{"/usr/lib/cni"};

  explicit Chain(const std::string& dir) {
    auto add = [&](const std::string& text, bool ports) {
      auto tree = json::ParseTree(text, "bench");
      if (!tree) Die(tree.error().what);
      plugins.push_back({std::string(tree->at("type").as_string()), tree->get_object(), ports});
    };
    add(R"({"type":"loopback"})", false);
    add(R"({"type":"bridge","bridge":"peer0","isDefaultGateway":true,"ipMasq":true,
            "ipam":{"type":"host-local","dataDir":")" +
            dir + R"(/leases","ranges":[[{"subnet":"10.77.0.0/16"}]]}})",
        false);
    add(R"({"type":"portmap","capabilities":{"portMappings":true}})", true);
  }
  PluginCall Call(const char* command, const Plugin& p, const Attachment& a, const std::string& previous) {
    PluginCall call{.command = command,
                    .type = p.type,
                    .config = p.config,
                    .network = "peer",
                    .version = "1.0.0",
                    .container = a.pod.str(),
                    .netns_path = a.netns_path,
                    .interface = p.type == "loopback" ? "lo" : "eth0",
                    .args = "IgnoreUnknown=1",
                    .prev_result = previous,
                    .dirs = dirs};
    if (p.ports)
      call.runtime_config["portMappings"] = json::Array{json::Object{
          {"hostPort", a.ports[0].host_port}, {"containerPort", a.ports[0].container_port}, {"protocol", "tcp"}}};
    return call;
  }
  std::string Add(const Attachment& a) {
    std::string result;
    for (const Plugin& p : plugins) {
      auto out = RunPlugin(Call("ADD", p, a, p.type == "loopback" ? "" : result), Deadline::Never());
      if (!out) Die(out.error().what);
      if (p.type != "loopback") result = *out;
    }
    return result;
  }
  void Del(const Attachment& a, const std::string& result) {
    for (size_t i = plugins.size(); i-- > 0;)
      if (auto out =
              RunPlugin(Call("DEL", plugins[i], a, plugins[i].type == "loopback" ? "" : result), Deadline::Never());
          !out)
        Die(out.error().what);
  }
};

int Main(int rounds, int pods) {
  test::World world;
  if (!world.Usable()) Die("needs root and network namespaces");
  bool peers = access("/usr/lib/cni/bridge", X_OK) == 0;
  if (!peers) fmt::print("Debian's plugins are missing (package containernetworking-plugins): our side alone\n");
  Network& net = world.network();
  Chain chain(world.dir());
  Series attach{"berth attach"}, detach{"berth detach"}, add{"plugins ADD"}, del{"plugins DEL"};
  auto ours = [&](Series& a, Series& d) {
    auto pod = world.Pod({{.host_port = world.FreePort(), .container_port = 80}});
    std::this_thread::sleep_for(kPause);
    Time(a, [&] {
      if (auto r = net.Attach(pod, Deadline::Never()); !r) Die(r.error().what);
    });
    std::this_thread::sleep_for(kPause);
    Time(d, [&] {
      if (auto r = net.Detach(pod.pod, Deadline::Never()); !r) Die(r.error().what);
    });
    world.DropNamespace(pod.pod);
  };
  Series first_attach, first_detach;
  ours(first_attach, first_detach);  // makes bridge and tables
  for (int i = 0; i < rounds; ++i) {
    ours(attach, detach);
    if (!peers) continue;
    auto pod = world.Pod({{.host_port = world.FreePort(), .container_port = 80}});
    std::this_thread::sleep_for(kPause);
    std::string result;
    Time(add, [&] { result = chain.Add(pod); });
    std::this_thread::sleep_for(kPause);
    Time(del, [&] { chain.Del(pod, result); });
    world.DropNamespace(pod.pod);
  }
  fmt::print("{} rounds, one published port each; milliseconds\n  {:<36} {:>9} {:>9} {:>9}\n", rounds, "", "p10",
             "median", "p90");
  fmt::print("  {:<36} {:>9} {:9.3f}\n", "berth first attach (bridge, tables)", "", first_attach.At(0.5));
  for (Series* s : {&attach, &detach, &add, &del})
    if (!s->ms.empty()) s->Print();
  if (peers)
    fmt::print("  ratio of the medians: attach {:.0f}x, detach {:.0f}x, together {:.0f}x\n",
               add.At(0.5) / attach.At(0.5), del.At(0.5) / detach.At(0.5),
               (add.At(0.5) + del.At(0.5)) / (attach.At(0.5) + detach.At(0.5)));
  if (pods > 0) {
    auto begin = Clock::now();
    for (int i = 0; i < pods; ++i)
      if (auto r = net.Attach(world.Pod({{.host_port = world.FreePort(), .container_port = 80}}), Deadline::Never());
          !r)
        Die(r.error().what);
    double all = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
    Series loaded_attach{fmt::format("berth attach, {} pods there", pods)}, loaded_detach{"berth detach, as many"};
    for (int i = 0; i < rounds; ++i) ours(loaded_attach, loaded_detach);
    loaded_attach.Print();
    loaded_detach.Print();
    fmt::print("  {} attaches one after the other, with their namespaces: {:.0f} ms\n", pods, all);
  }
  return 0;
}

}  // namespace
}  // namespace berth::cni

int main(int argc, char** argv) {
  return berth::cni::Main(argc > 1 ? atoi(argv[1]) : 30, argc > 2 ? atoi(argv[2]) : 500);
}
