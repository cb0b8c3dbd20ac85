#include <gtest/gtest.h>

#include "cri/check.h"
#include "cri/convert.h"

namespace berth::cri {
namespace {

const HostFacts kHost;

api::RunPodSandboxRequest Pod() {
  api::RunPodSandboxRequest request;
  auto& metadata = *request.mutable_config()->mutable_metadata();
  metadata.set_name("web");
  metadata.set_namespace_("default");
  metadata.set_uid("u-1");
  return request;
}

api::CreateContainerRequest Container() {
  api::CreateContainerRequest request;
  request.set_pod_sandbox_id("abc");
  request.mutable_config()->mutable_metadata()->set_name("app");
  request.mutable_config()->mutable_image()->set_image("app:1");
  return request;
}

// One wrong thing in an otherwise good request, and what the answer says.
template <class Request>
struct Case {
  std::string error;
  std::function<void(Request&)> change;
  Code code = Code::kInvalidArgument;
};

void Expect(const std::string& what, Code code, const Error* error, const std::string& wanted) {
  ASSERT_NE(error, nullptr) << "accepted: " << wanted;
  EXPECT_EQ(error->code, code) << what;
  EXPECT_TRUE(what.starts_with(wanted)) << "got:    " << what << "\nwanted: " << wanted;
}

TEST(ToPodSpec, Minimal) {
  auto spec = ToPodSpec(Pod(), kHost);
  ASSERT_TRUE(spec) << spec.error().what;
  EXPECT_EQ(spec->name, "web");
  EXPECT_EQ(spec->name_space, "default");
  EXPECT_EQ(spec->uid, "u-1");
  EXPECT_EQ(spec->namespaces.pid, pods::Namespace::kContainer);
  EXPECT_EQ(spec->namespaces.network, pods::Namespace::kPod);
  EXPECT_EQ(spec->origin, "cri");
}

TEST(ToPodSpec, RoundTrip) {
  auto request = Pod();
  auto& config = *request.mutable_config();
  config.mutable_metadata()->set_attempt(3);
  config.set_hostname("web-0.example");
  config.set_log_directory("/var/log/pods/default_web_u-1");
  config.mutable_dns_config()->add_servers("10.0.0.10");
  config.mutable_dns_config()->add_searches("default.svc.cluster.local");
  config.mutable_dns_config()->add_options("ndots:5");
  auto& port = *config.add_port_mappings();
  port.set_protocol(api::UDP);
  port.set_container_port(53);
  port.set_host_port(5353);
  port.set_host_ip("fd00::1");
  (*config.mutable_labels())["io.kubernetes.pod.name"] = "web";
  (*config.mutable_annotations())["a"] = std::string("any\ntext");
  auto& linux = *config.mutable_linux();
  linux.set_cgroup_parent("/kubepods/burstable/podu-1");
  (*linux.mutable_sysctls())["net.ipv4.ip_forward"] = "1";
  (*linux.mutable_sysctls())["kernel.shm_rmid_forced"] = "1";
  (*linux.mutable_sysctls())["fs.mqueue.msg_max"] = "100";
  linux.mutable_security_context()->set_privileged(true);
  auto& options = *linux.mutable_security_context()->mutable_namespace_options();
  options.set_pid(api::POD);
  options.set_ipc(api::POD);
  auto spec = ToPodSpec(request, kHost);
  ASSERT_TRUE(spec) << spec.error().what;
  EXPECT_EQ(spec->namespaces.pid, pods::Namespace::kPod);
  EXPECT_TRUE(spec->privileged);
  EXPECT_EQ(spec->ports.at(0).protocol, "udp");
  api::RunPodSandboxRequest again;
  *again.mutable_config() = ConfigOf(*spec);
  EXPECT_EQ(again.DebugString(), request.DebugString());
}

TEST(ToPodSpec, Refusals) {
  using C = Case<api::RunPodSandboxRequest>;
  auto linux = [](auto& r) -> api::LinuxPodSandboxConfig& { return *r.mutable_config()->mutable_linux(); };
  auto options = [linux](auto& r) -> api::NamespaceOption& {
    return *linux(r).mutable_security_context()->mutable_namespace_options();
  };
  auto sysctl = [linux](std::string key, std::string value) {
    return [=](auto& r) { (*linux(r).mutable_sysctls())[key] = value; };
  };
  auto port = [](int container, int host, std::string ip = "", int times = 1) {
    return [=](auto& r) {
      for (int i = 0; i < times; ++i) {
        auto& p = *r.mutable_config()->add_port_mappings();
        p.set_container_port(container);
        p.set_host_port(host);
        p.set_host_ip(ip);
      }
    };
  };
  const C cases[] = {
      {"config: must be set", [](auto& r) { r.clear_config(); }},
      {"runtime_handler: no handler \"kata\"; there is only the default one",
       [](auto& r) { r.set_runtime_handler("kata"); }},
      {"config.metadata: must be set", [](auto& r) { r.mutable_config()->clear_metadata(); }},
      {"config.metadata.name: must not be empty",
       [](auto& r) { r.mutable_config()->mutable_metadata()->clear_name(); }},
      {"config.metadata.namespace: must not be empty",
       [](auto& r) { r.mutable_config()->mutable_metadata()->clear_namespace_(); }},
      {"config.metadata.uid: must not be empty", [](auto& r) { r.mutable_config()->mutable_metadata()->clear_uid(); }},
      {"config.metadata.name: must be at most 253 bytes",
       [](auto& r) { r.mutable_config()->mutable_metadata()->set_name(std::string(254, 'n')); }},
      {"config.metadata.uid: must not contain slashes",
       [](auto& r) { r.mutable_config()->mutable_metadata()->set_uid("../x"); }},
      {"config.hostname: must be 1 to 64", [](auto& r) { r.mutable_config()->set_hostname(std::string(65, 'h')); }},
      {"config.hostname: must be 1 to 64", [](auto& r) { r.mutable_config()->set_hostname("a b"); }},
      {"config.hostname: must be 1 to 64", [](auto& r) { r.mutable_config()->set_hostname("-a"); }},
      {"config.log_directory: must be an absolute path",
       [](auto& r) { r.mutable_config()->set_log_directory("logs"); }},
      {"config.log_directory: must not contain a `..` part",
       [](auto& r) { r.mutable_config()->set_log_directory("/var/log/../../etc"); }},
      {"config.dns_config.servers[0]: must be an IPv4 or IPv6 address",
       [](auto& r) { r.mutable_config()->mutable_dns_config()->add_servers("dns.example"); }},
      {"config.dns_config.searches[0]: must not contain blanks",
       [](auto& r) { r.mutable_config()->mutable_dns_config()->add_searches("a\nnameserver 1.1.1.1"); }},
      {"config.dns_config.options[0]: must not be empty",
       [](auto& r) { r.mutable_config()->mutable_dns_config()->add_options(""); }},
      {"config.port_mappings[0].container_port: must be 1 to 65535, got 0", port(0, 80)},
      {"config.port_mappings[0].container_port: must be 1 to 65535, got -1", port(-1, 80)},
      {"config.port_mappings[0].host_port: must be 0 to 65535, got 65536", port(80, 65536)},
      {"config.port_mappings[0].host_ip: must be an IPv4", port(80, 80, "localhost")},
      {"config.port_mappings[1].host_port: 80/tcp is published twice", port(80, 80, "", 2)},
      {"config.labels: a key is empty", [](auto& r) { (*r.mutable_config()->mutable_labels())[""] = "v"; }},
      {"config.linux.cgroup_parent: must not contain a `..` part",
       [=](auto& r) { linux(r).set_cgroup_parent("/kubepods/../../x"); }},
      {"config.linux.cgroup_parent: \"kubepods.slice\" is a systemd slice",
       [=](auto& r) { linux(r).set_cgroup_parent("kubepods.slice"); }},
      {"config.linux.sysctls[\"kernel.panic\"]: is not namespaced", sysctl("kernel.panic", "1")},
      {"config.linux.sysctls[\"vm.swappiness\"]: is not namespaced", sysctl("vm.swappiness", "1")},
      {"config.linux.sysctls[\"net/../kernel/panic\"]: the name must look like", sysctl("net/../kernel/panic", "1")},
      {"config.linux.sysctls[\"net.ipv4.x\"]: the value must be one line", sysctl("net.ipv4.x", "1\n2")},
      {"config.linux.sysctls[\"net.ipv4.ip_forward\"]: would change the host: this pod uses the host's network",
       [=](auto& r) {
         options(r).set_network(api::NODE);
         sysctl("net.ipv4.ip_forward", "1")(r);
       }},
      {"config.linux.sysctls[\"kernel.sem\"]: would change the host: this pod uses the host's IPC",
       [=](auto& r) {
         options(r).set_ipc(api::NODE);
         sysctl("kernel.sem", "1")(r);
       }},
      {"config.linux.security_context.namespace_options.network: must be POD (0) or NODE (2), got CONTAINER",
       [=](auto& r) { options(r).set_network(api::CONTAINER); }},
      {"config.linux.security_context.namespace_options.ipc: must be POD (0) or NODE (2), got TARGET",
       [=](auto& r) { options(r).set_ipc(api::TARGET); }},
      {"config.linux.security_context.namespace_options.pid: TARGET is for containers",
       [=](auto& r) { options(r).set_pid(api::TARGET); }},
      {"config.linux.security_context.namespace_options.target_id: is only for pid TARGET",
       [=](auto& r) { options(r).set_target_id("abc"); }},
      {"config.linux.security_context.namespace_options.userns_options.mode: user namespaces are not there yet",
       [=](auto& r) { options(r).mutable_userns_options()->set_mode(api::POD); }, Code::kUnimplemented},
      {"config.linux.security_context.namespace_options.userns_options.mode: must be POD (0) or NODE (2), got "
       "CONTAINER",
       [=](auto& r) { options(r).mutable_userns_options()->set_mode(api::CONTAINER); }},
      {"config.linux.security_context.namespace_options.userns_options.mode: must be POD (0) or NODE (2), got TARGET",
       [=](auto& r) { options(r).mutable_userns_options()->set_mode(api::TARGET); }},
      {"config.linux.security_context.run_as_user: must be 0 to 4294967294, got -1",
       [=](auto& r) { linux(r).mutable_security_context()->mutable_run_as_user()->set_value(-1); }},
      {"config.linux.security_context.run_as_group: needs run_as_user",
       [=](auto& r) { linux(r).mutable_security_context()->mutable_run_as_group()->set_value(1); }},
      {"config.linux.security_context.seccomp.localhost_ref: must be an absolute path",
       [=](auto& r) {
         auto& p = *linux(r).mutable_security_context()->mutable_seccomp();
         p.set_profile_type(api::SecurityProfile::Localhost);
         p.set_localhost_ref("profile.json");
       }},
      {"resources of the pod: config.linux.resources.memory_limit_in_bytes: must be 0 to",
       [=](auto& r) { linux(r).mutable_resources()->set_memory_limit_in_bytes(-5); }},
  };
  for (const auto& c : cases) {
    auto request = Pod();
    c.change(request);
    auto spec = ToPodSpec(request, kHost);
    Expect(spec ? "" : spec.error().what, c.code, spec ? nullptr : &spec.error(), c.error);
  }
}

TEST(ToPodSpec, HostNetworkPublishesNothing) {
  auto request = Pod();
  request.mutable_config()->mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_network(
      api::NODE);
  auto& port = *request.mutable_config()->add_port_mappings();
  port.set_container_port(80);
  port.set_host_port(80);
  auto spec = ToPodSpec(request, kHost);
  ASSERT_TRUE(spec);
  EXPECT_TRUE(spec->ports.empty());
}

TEST(ToPodSpec, CgroupParents) {
  for (auto [given, wanted] :
       {std::pair("/test.slice", "/test.slice"), std::pair("kubepods/x/", "/kubepods/x"), std::pair("", "")}) {
    auto request = Pod();
    request.mutable_config()->mutable_linux()->set_cgroup_parent(given);
    auto spec = ToPodSpec(request, kHost);
    ASSERT_TRUE(spec) << given;
    EXPECT_EQ(spec->cgroup_parent, wanted);
  }
}

TEST(ToPodSpec, SelinuxOnlyMattersWhereItIs) {
  auto request = Pod();
  request.mutable_config()->mutable_linux()->mutable_security_context()->mutable_selinux_options()->set_level(
      "s0:c1,c2");
  EXPECT_TRUE(ToPodSpec(request, kHost));
  HostFacts selinux;
  selinux.selinux = true;
  auto spec = ToPodSpec(request, selinux);
  ASSERT_FALSE(spec);
  EXPECT_EQ(spec.error().code, Code::kUnimplemented);
}

TEST(ToContainerSpec, Minimal) {
  std::string_view text;
  auto c = ToContainerSpec(Container(), kHost, text);
  ASSERT_TRUE(c) << c.error().what;
  EXPECT_EQ(c->spec.name, "app");
  EXPECT_EQ(c->spec.image, "app:1");
  EXPECT_EQ(c->spec.namespaces.pid, pods::Namespace::kContainer);
  EXPECT_EQ(c->spec.seccomp.kind, "unconfined");
  EXPECT_FALSE(c->spec.masked_paths);
  EXPECT_FALSE(c->spec.resources.oom_score_adj);
  EXPECT_EQ(c->spec.stop_signal, "");
}

TEST(ToContainerSpec, RoundTrip) {
  auto request = Container();
  auto& config = *request.mutable_config();
  config.mutable_metadata()->set_attempt(2);
  config.mutable_image()->set_user_specified_image("app");
  config.add_command("/bin/sh");
  config.add_args("-c");
  config.add_args("");
  config.set_working_dir("/srv");
  for (auto [key, value] : {std::pair("A", "1"), std::pair("B", "x=y"), std::pair("A", "")}) {
    auto& env = *config.add_envs();
    env.set_key(key);
    env.set_value(value);
  }
  auto& first = *config.add_mounts();
  first.set_container_path("/etc/hosts");
  first.set_host_path("/var/lib/kubelet/pods/x/etc-hosts");
  auto& second = *config.add_mounts();
  second.set_container_path("/data");
  second.set_host_path("/mnt/data");
  second.set_readonly(true);
  second.set_recursive_read_only(true);
  auto& third = *config.add_mounts();
  third.set_container_path("/shared");
  third.set_host_path("/mnt");
  third.set_propagation(api::PROPAGATION_BIDIRECTIONAL);
  third.set_selinux_relabel(true);
  auto& device = *config.add_devices();
  device.set_host_path("/dev/fuse");
  device.set_container_path("/dev/fuse");
  device.set_permissions("rw");
  (*config.mutable_labels())["l"] = "1";
  (*config.mutable_annotations())["a"] = "2";
  config.set_log_path("app/0.log");
  config.set_tty(true);
  config.set_stdin(true);
  config.set_stdin_once(true);
  config.set_stop_signal(api::SIGNAL_SIGRTMINPLUS3);
  auto& resources = *config.mutable_linux()->mutable_resources();
  resources.set_cpu_period(100000);
  resources.set_cpu_quota(-1);
  resources.set_cpu_shares(2);
  resources.set_memory_limit_in_bytes(64 << 20);
  resources.set_memory_swap_limit_in_bytes(128 << 20);
  resources.set_oom_score_adj(-997);
  resources.set_cpuset_cpus("0-3,7");
  resources.set_cpuset_mems("0");
  auto& page = *resources.add_hugepage_limits();
  page.set_page_size("2MB");
  (*resources.mutable_unified())["memory.oom.group"] = "1";
  auto& security = *config.mutable_linux()->mutable_security_context();
  security.mutable_capabilities()->add_add_capabilities("NET_ADMIN");
  security.mutable_capabilities()->add_drop_capabilities("ALL");
  security.mutable_namespace_options()->set_pid(api::TARGET);
  security.mutable_namespace_options()->set_target_id("123");
  security.mutable_run_as_user()->set_value(0);
  security.mutable_run_as_group()->set_value(4294967294);
  security.set_readonly_rootfs(true);
  security.add_supplemental_groups(1234);
  security.set_supplemental_groups_policy(api::Strict);
  security.set_no_new_privs(true);
  security.add_masked_paths("/proc/kcore");
  security.add_readonly_paths("/proc/sys");
  security.mutable_seccomp()->set_profile_type(api::SecurityProfile::Localhost);
  security.mutable_seccomp()->set_localhost_ref("/etc/seccomp/p.json");
  security.mutable_apparmor()->set_profile_type(api::SecurityProfile::RuntimeDefault);
  std::string_view text;
  auto c = ToContainerSpec(request, kHost, text);
  ASSERT_TRUE(c) << c.error().what;
  EXPECT_EQ(c->spec.env, (std::vector<std::string>{"A=1", "B=x=y", "A="}));
  EXPECT_EQ(c->spec.stop_signal, "SIGRTMIN+3");
  EXPECT_TRUE(c->spec.strict_groups);
  EXPECT_EQ(c->spec.resources.hugepages.at("2MB"), 0u);
  api::CreateContainerRequest again;
  again.set_pod_sandbox_id("abc");
  *again.mutable_config() = ConfigOf(c->spec);
  EXPECT_EQ(again.DebugString(), request.DebugString());
}

TEST(ToContainerSpec, Refusals) {
  using C = Case<api::CreateContainerRequest>;
  auto security = [](auto& r) -> api::LinuxContainerSecurityContext& {
    return *r.mutable_config()->mutable_linux()->mutable_security_context();
  };
  auto resources = [](auto change) {
    return [=](auto& r) { change(*r.mutable_config()->mutable_linux()->mutable_resources()); };
  };
  auto mount = [](auto change) {
    return [=](auto& r) {
      auto& m = *r.mutable_config()->add_mounts();
      m.set_container_path("/data");
      m.set_host_path("/mnt");
      change(m);
    };
  };
  auto env = [](std::string key, std::string value) {
    return [=](auto& r) {
      auto& e = *r.mutable_config()->add_envs();
      e.set_key(key);
      e.set_value(value);
    };
  };
  auto device = [](std::string host, std::string permissions) {
    return [=](auto& r) {
      auto& d = *r.mutable_config()->add_devices();
      d.set_host_path(host);
      d.set_permissions(permissions);
    };
  };
  const C
      cases
          [] =
              {
                  {"pod_sandbox_id: must not be empty", [](auto& r) { r.clear_pod_sandbox_id(); }},
                  {"config: must be set", [](auto& r) { r.clear_config(); }},
                  {"config.metadata: must be set", [](auto& r) { r.mutable_config()->clear_metadata(); }},
                  {"config.metadata.name: must not be empty",
                   [](auto& r) { r.mutable_config()->mutable_metadata()->clear_name(); }},
                  {"config.image.image: must not be empty", [](auto& r) { r.mutable_config()->clear_image(); }},
                  {"config.image.image: must not contain blanks",
                   [](auto& r) { r.mutable_config()->mutable_image()->set_image("a b"); }},
                  {"config.command[0]: must name a program", [](auto& r) { r.mutable_config()->add_command(""); }},
                  {"config.args[0]: must be at most 131071 bytes",
                   [](auto& r) { r.mutable_config()->add_args(std::string(131072, 'a')); }},
                  {"config.working_dir: must be an absolute path",
                   [](auto& r) { r.mutable_config()->set_working_dir("srv"); }},
                  {"config.envs[0].key: must not be empty", env("", "x")},
                  {"config.envs[0].key: must not contain `=`, got \"A=B\"", env("A=B", "x")},
                  {"config.envs[0].value: must not contain NUL bytes (variable \"A\")", env("A", std::string("\0", 1))},
                  {"config.envs[0]: must be at most 131070 bytes", env("A", std::string(131072, 'v'))},
                  {"config.mounts[0].container_path: must not be empty",
                   mount([](auto& m) { m.clear_container_path(); })},
                  {"config.mounts[0].container_path: must be an absolute path",
                   mount([](auto& m) { m.set_container_path("data"); })},
                  {"config.mounts[0].container_path: must not contain a `..` part",
                   mount([](auto& m) { m.set_container_path("/a/../.."); })},
                  {"config.mounts[0].container_path: must not be the root",
                   mount([](auto& m) { m.set_container_path("//"); })},
                  {"config.mounts[0].host_path: must not be empty", mount([](auto& m) { m.clear_host_path(); })},
                  {"config.mounts[0].host_path: must be an absolute path",
                   mount([](auto& m) { m.set_host_path("mnt"); })},
                  {"config.mounts[0].recursive_read_only: needs readonly",
                   mount([](auto& m) { m.set_recursive_read_only(true); })},
                  {"config.mounts[0].recursive_read_only: needs PROPAGATION_PRIVATE, got PROPAGATION_HOST_TO_CONTAINER",
                   mount([](auto& m) {
                     m.set_recursive_read_only(true);
                     m.set_readonly(true);
                     m.set_propagation(api::PROPAGATION_HOST_TO_CONTAINER);
                   })},
                  {"config.mounts[0].recursive_read_only: needs PROPAGATION_PRIVATE, got PROPAGATION_BIDIRECTIONAL",
                   mount([](auto& m) {
                     m.set_recursive_read_only(true);
                     m.set_readonly(true);
                     m.set_propagation(api::PROPAGATION_BIDIRECTIONAL);
                   })},
                  {"config.mounts[0].image: image volumes are not there yet", mount([](auto& m) {
                     m.clear_host_path();
                     m.set_readonly(true);
                     m.mutable_image()->set_image("app:1");
                   }),
                   Code::kUnimplemented},
                  {"config.mounts[0].host_path: must be empty when image is set",
                   mount([](auto& m) { m.mutable_image()->set_image("app:1"); })},
                  {"config.mounts[0].readonly: must be true when image is set", mount([](auto& m) {
                     m.clear_host_path();
                     m.mutable_image()->set_image("app:1");
                   })},
                  {"config.mounts[0].image_sub_path: is only for mounts of an image",
                   mount([](auto& m) { m.set_image_sub_path("x"); })},
                  {"config.mounts[0].uidMappings: id-mapped mounts", mount([](auto& m) { m.add_uidmappings(); }),
                   Code::kUnimplemented},
                  {"config.mounts[0].gidMappings: id-mapped mounts", mount([](auto& m) { m.add_gidmappings(); }),
                   Code::kUnimplemented},
                  {"config.mounts[0].mount_options: are not there yet",
                   mount([](auto& m) { m.add_mount_options("noexec"); }), Code::kUnimplemented},
                  {"config.mounts[1].container_path: \"/data\" is also mounted by config.mounts[0]",
                   [=](auto& r) {
                     mount([](auto&) {})(r);
                     mount([](auto& m) { m.set_container_path("/data/"); })(r);
                   }},
                  {"config.devices[0].host_path: must be an absolute path", device("fuse", "")},
                  {"config.devices[0].permissions: must be some of r, w, m", device("/dev/fuse", "rx")},
                  {"config.devices[0].permissions: must be some of r, w, m, each once", device("/dev/fuse", "rr")},
                  {"config.CDI_devices: the Container Device Interface is not there yet",
                   [](auto& r) { r.mutable_config()->add_cdi_devices()->set_name("v/c=d"); }, Code::kUnimplemented},
                  {"config.log_path: must be a relative path",
                   [](auto& r) { r.mutable_config()->set_log_path("/etc/passwd"); }},
                  {"config.log_path: must not contain a `..` part",
                   [](auto& r) { r.mutable_config()->set_log_path("../../etc/passwd"); }},
                  {"config.log_path: must name a file", [](auto& r) { r.mutable_config()->set_log_path("app/"); }},
                  {"config.linux.resources.cpu_period: must be 1000 to 1000000, got 999",
                   resources([](auto& r) { r.set_cpu_period(999); })},
                  {"config.linux.resources.cpu_quota: must be 1000 to",
                   resources([](auto& r) { r.set_cpu_quota(-2); })},
                  {"config.linux.resources.cpu_shares: must be 2 to 262144, got -1",
                   resources([](auto& r) { r.set_cpu_shares(-1); })},
                  {"config.linux.resources.memory_limit_in_bytes: must be 0 to",
                   resources([](auto& r) { r.set_memory_limit_in_bytes(-1); })},
                  {"config.linux.resources.memory_swap_limit_in_bytes: must be -1 to",
                   resources([](auto& r) { r.set_memory_swap_limit_in_bytes(-2); })},
                  {"config.linux.resources.memory_swap_limit_in_bytes: is memory and swap together",
                   resources([](auto& r) {
                     r.set_memory_limit_in_bytes(100);
                     r.set_memory_swap_limit_in_bytes(99);
                   })},
                  {"config.linux.resources.oom_score_adj: must be -1000 to 1000, got 1001",
                   resources([](auto& r) { r.set_oom_score_adj(1001); })},
                  {"config.linux.resources.cpuset_cpus: must be a list",
                   resources([](auto& r) { r.set_cpuset_cpus("0-"); })},
                  {"config.linux.resources.cpuset_cpus: must be a list",
                   resources([](auto& r) { r.set_cpuset_cpus("3-1"); })},
                  {"config.linux.resources.cpuset_mems: must be a list",
                   resources([](auto& r) { r.set_cpuset_mems("0,,1"); })},
                  {"config.linux.resources.hugepage_limits[0].page_size: must look like 2MB",
                   resources([](auto& r) { r.add_hugepage_limits()->set_page_size("2M"); })},
                  {"config.linux.resources.hugepage_limits[1].page_size: \"2MB\" stands twice", resources([](auto& r) {
                     r.add_hugepage_limits()->set_page_size("2MB");
                     r.add_hugepage_limits()->set_page_size("2MB");
                   })},
                  {"config.linux.resources.unified[\"../cgroup.procs\"]: the key must be a file of a v2 cgroup",
                   resources([](auto& r) { (*r.mutable_unified())["../cgroup.procs"] = "1"; })},
                  {"config.linux.resources.unified[\"memory.high\"]: the value must have",
                   resources([](auto& r) { (*r.mutable_unified())["memory.high"] = ""; })},
                  {"config.linux.security_context.capabilities.add_capabilities[0]: no capability \"NET_ADMIM\"",
                   [=](auto& r) { security(r).mutable_capabilities()->add_add_capabilities("NET_ADMIM"); }},
                  {"config.linux.security_context.capabilities.add_ambient_capabilities[0]: no capability \"ALL\"",
                   [=](auto& r) { security(r).mutable_capabilities()->add_add_ambient_capabilities("ALL"); }},
                  {"config.linux.security_context.run_as_group: needs run_as_user or run_as_username",
                   [=](auto& r) { security(r).mutable_run_as_group()->set_value(1); }},
                  {"config.linux.security_context.run_as_username: must be empty when run_as_user is set",
                   [=](auto& r) {
                     security(r).mutable_run_as_user()->set_value(1);
                     security(r).set_run_as_username("nobody");
                   }},
                  {"config.linux.security_context.run_as_username: must be a name without a group",
                   [=](auto& r) { security(r).set_run_as_username("a:b"); }},
                  {"config.linux.security_context.supplemental_groups[0]: must be 0 to 4294967294, got 4294967295",
                   [=](auto& r) { security(r).add_supplemental_groups(4294967295); }},
                  {"config.linux.security_context.masked_paths[0]: must be an absolute path",
                   [=](auto& r) { security(r).add_masked_paths("proc"); }},
                  {"config.linux.security_context.namespace_options.target_id: must name a container",
                   [=](auto& r) { security(r).mutable_namespace_options()->set_pid(api::TARGET); }},
                  {"config.linux.security_context.namespace_options.userns_options.mode: user namespaces are not there "
                   "yet",
                   [=](auto& r) { security(r).mutable_namespace_options()->mutable_userns_options(); },
                   Code::kUnimplemented},
                  {"config.linux.security_context.seccomp_profile_path: must be runtime/default, unconfined or "
                   "localhost/<absolute path>",
                   [=](auto& r) { security(r).set_seccomp_profile_path("default"); }},
                  {"config.linux.security_context.seccomp_profile_path: must be an absolute path",
                   [=](auto& r) { security(r).set_seccomp_profile_path("localhost/p.json"); }},
                  {"config.linux.security_context.seccomp.localhost_ref: is only for profile_type Localhost",
                   [=](auto& r) { security(r).mutable_seccomp()->set_localhost_ref("/x"); }},
                  {"config.linux.security_context.apparmor.localhost_ref: must not be empty",
                   [=](auto& r) { security(r).mutable_apparmor()->set_profile_type(api::SecurityProfile::Localhost); }},
              };
  for (const auto& c : cases) {
    auto request = Container();
    c.change(request);
    std::string_view text;
    auto spec = ToContainerSpec(request, kHost, text);
    Expect(spec ? "" : spec.error().what, c.code, spec ? nullptr : &spec.error(), c.error);
    EXPECT_TRUE(text.empty());
  }
}

TEST(ToContainerSpec, RecursiveReadOnlyWhereTheKernelCannot) {
  HostFacts old;
  old.recursive_read_only = false;
  auto request = Container();
  auto& mount = *request.mutable_config()->add_mounts();
  mount.set_container_path("/data");
  mount.set_host_path("/mnt");
  mount.set_readonly(true);
  mount.set_recursive_read_only(true);
  std::string_view text;
  EXPECT_FALSE(ToContainerSpec(request, old, text));
  EXPECT_EQ(text, "RROUnsupported");
}

TEST(ToContainerSpec, ProfilesOldAndNew) {
  auto convert = [](auto change) {
    auto request = Container();
    change(*request.mutable_config()->mutable_linux()->mutable_security_context());
    std::string_view text;
    return ToContainerSpec(request, kHost, text).value().spec;
  };
  EXPECT_EQ(convert([](auto&) {}).seccomp.kind, "unconfined");
  EXPECT_EQ(convert([](auto&) {}).apparmor.kind, "");
  EXPECT_EQ(convert([](auto& s) { s.mutable_seccomp(); }).seccomp.kind, "default");
  EXPECT_EQ(convert([](auto& s) { s.set_seccomp_profile_path("runtime/default"); }).seccomp.kind, "default");
  EXPECT_EQ(convert([](auto& s) { s.set_seccomp_profile_path("localhost//etc/p.json"); }).seccomp.path, "/etc/p.json");
  // The new field wins.
  EXPECT_EQ(convert([](auto& s) {
              s.mutable_seccomp()->set_profile_type(api::SecurityProfile::Unconfined);
              s.set_seccomp_profile_path("runtime/default");
            }).seccomp.kind,
            "unconfined");
  EXPECT_EQ(convert([](auto& s) { s.set_apparmor_profile("localhost/my-profile"); }).apparmor.path, "my-profile");
  EXPECT_EQ(convert([](auto& s) {
              s.mutable_apparmor()->set_profile_type(api::SecurityProfile::Localhost);
              s.mutable_apparmor()->set_localhost_ref("localhost/my-profile");
            }).apparmor.path,
            "my-profile");
  // With a security context the lists are exactly what was sent, also when empty.
  EXPECT_TRUE(convert([](auto&) {}).masked_paths.value().empty());
}

TEST(ToResources, SwapFollowsTheLimit) {
  api::LinuxContainerResources resources;
  resources.set_memory_limit_in_bytes(100);
  EXPECT_EQ(ToResources("r", resources)->memory_swap, 100);
  resources.set_memory_swap_limit_in_bytes(-1);
  EXPECT_EQ(ToResources("r", resources)->memory_swap, -1);
}

}  // namespace
}  // namespace berth::cri
