#include "pods/files.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include "base/atomic_file.h"
#include "base/unique_fd.h"

namespace berth::pods {

namespace {

constexpr size_t kLimit = 1 << 20;

bool OnlyLoopbackServers(std::string_view text) {
  bool any = false;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (!line.starts_with("nameserver")) continue;
    line.remove_prefix(10);
    while (!line.empty() && (line[0] == ' ' || line[0] == '\t')) line.remove_prefix(1);
    any = true;
    if (!line.starts_with("127.") && !line.starts_with("::1")) return false;
  }
  return any;
}

std::string Joined(const std::vector<std::string>& parts) { return fmt::format("{}", fmt::join(parts, " ")); }

}  // namespace

std::string NodeName() {
  char name[HOST_NAME_MAX + 1] = {};
  ::gethostname(name, sizeof name - 1);
  return name;
}

HostFiles HostFiles::Read(bool host_network) {
  HostFiles out;
  out.hostname = NodeName();
  if (host_network) out.hosts = ReadFile("/etc/hosts", kLimit).value_or("");
  out.resolv_conf = ReadFile("/etc/resolv.conf", kLimit).value_or("");
  if (!host_network && OnlyLoopbackServers(out.resolv_conf))
    if (auto real = ReadFile("/run/systemd/resolve/resolv.conf", kLimit)) out.resolv_conf = *real;
  return out;
}

std::string Hostname(const PodSpec& spec, const std::string& node) {
  if (spec.namespaces.network == Namespace::kNode) return node;
  const std::string& name = spec.hostname.empty() ? spec.name : spec.hostname;
  return name.substr(0, HOST_NAME_MAX);
}

std::string HostsFile(const PodState& pod, const std::string& hostname, const HostFiles& host) {
  if (pod.spec.namespaces.network == Namespace::kNode) return host.hosts;
  std::string out =
      "127.0.0.1\tlocalhost\n"
      "::1\tlocalhost ip6-localhost ip6-loopback\n"
      "fe00::0\tip6-localnet\n"
      "ff00::0\tip6-mcastprefix\n"
      "ff02::1\tip6-allnodes\n"
      "ff02::2\tip6-allrouters\n";
  for (const auto& address : pod.network.addresses) out += address.Ip() + "\t" + hostname + "\n";
  return out;
}

std::string ResolvConf(const PodState& pod, const HostFiles& host) {
  auto text = [](const std::vector<std::string>& searches, const std::vector<std::string>& servers,
                 const std::vector<std::string>& options) {
    std::string out;
    if (!searches.empty()) out += "search " + Joined(searches) + "\n";
    for (const auto& server : servers) out += "nameserver " + server + "\n";
    if (!options.empty()) out += "options " + Joined(options) + "\n";
    return out;
  };
  const Dns& dns = pod.spec.dns;
  if (!dns.servers.empty() || !dns.searches.empty() || !dns.options.empty())
    return text(dns.searches, dns.servers, dns.options);
  if (!pod.network.dns_servers.empty())
    return text(pod.network.dns_searches, pod.network.dns_servers, pod.network.dns_options);
  return host.resolv_conf;
}

Result<void> WritePodFiles(const std::string& dir, const PodState& pod) {
  HostFiles host = HostFiles::Read(pod.spec.namespaces.network == Namespace::kNode);
  std::string hostname = Hostname(pod.spec, host.hostname);
  // Not synced: after a power cut the pod is gone, and so are they.
  auto write = [&](const char* name, const std::string& text) -> Result<void> {
    std::string path = dir + "/" + name;
    auto fd = TRY(Open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644));
    return WriteAll(fd.get(), text);
  };
  TRY(write("hosts", HostsFile(pod, hostname, host)));
  TRY(write("hostname", hostname + "\n"));
  return write("resolv.conf", ResolvConf(pod, host));
}

}  // namespace berth::pods
