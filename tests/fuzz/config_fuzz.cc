// config.json as a stranger writes it: parse, check, plan. Nothing may crash; a refusal names what it refuses; what is
// accepted can be written and read again without change; and every plan that the planner makes is one that the executor
// takes.
//
// Two forms of input: with a first byte below 128 the rest is the document; else the bytes drive edits of a good
// document, which reaches further. Run it where the process may do nothing (08-fuzz), since plans open what they name.
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdio>
#include <cstdlib>

#include "base/atomic_file.h"
#include "base/json.h"
#include "runtime/init/child.h"
#include "runtime/oci/planner.h"
#include "runtime/oci/validate.h"
#include "runtime/oci/verbs.h"

namespace {

using namespace berth;
using namespace berth::runtime::oci;

[[noreturn]] void Wrong(const char* what, const std::string& text) {
  fprintf(stderr, "config_fuzz: %s: %s\n", what, text.c_str());
  abort();
}

constexpr const char* kMore = R"({"hostname":"h","annotations":{"a":"b"},
  "hooks":{"createRuntime":[{"path":"/bin/true","args":["a"],"env":["A=b"],"timeout":1}],"poststop":[]},
  "linux":{"uidMappings":[{"containerID":0,"hostID":1,"size":2}],"gidMappings":[],"sysctl":{"net.ipv4.ip_forward":"1"},
    "timeOffsets":{"monotonic":{"secs":1,"nanosecs":2}},"cgroupsPath":"/a/b","rootfsPropagation":"rslave",
    "devices":[{"type":"c","path":"/dev/x","major":1,"minor":5,"fileMode":438,"uid":0,"gid":0}],
    "netDevices":{"eth0":{"name":"e%d"}},"personality":{"domain":"LINUX32","flags":[]},
    "memoryPolicy":{"mode":"MPOL_BIND","nodes":"0","flags":[]},"intelRdt":{"closID":"a","schemata":["L3:0=f"]},
    "resources":{"devices":[{"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"}],
      "memory":{"limit":1,"swap":2,"reservation":3,"swappiness":4},"cpu":{"shares":2,"quota":3,"period":4,"cpus":"0-1","mems":"0"},
      "pids":{"limit":5},"hugepageLimits":[{"pageSize":"2MB","limit":6}],"unified":{"memory.high":"7"},
      "blockIO":{"weight":10,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}]},"network":{"classID":1},"rdma":{"a":{"hcaHandles":1}}},
    "seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"flags":["SECCOMP_FILTER_FLAG_LOG"],
      "syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"valueTwo":2,"op":"SCMP_CMP_MASKED_EQ"}]}]}},
  "process":{"scheduler":{"policy":"SCHED_BATCH","nice":1},"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":1},"oomScoreAdj":1,
    "consoleSize":{"height":1,"width":2},"execCPUAffinity":{"initial":"0","final":"1"},"apparmorProfile":"a","selinuxLabel":"b",
    "user":{"umask":18,"additionalGids":[1,2]},"rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}]}})";

void Merge(json::Value& into, const json::Value& from) {
  auto* a = into.if_object();
  auto* b = from.if_object();
  if (!a || !b) {
    into = from;
    return;
  }
  for (const auto& member : *b) Merge((*a)[member.key()], member.value());
}

const json::Value& Good() {
  static const json::Value good = [] {
    json::Value v = *json::ParseTree(SpecTemplate(), "template");
    Merge(v, *json::ParseTree(kMore, "more"));
    return v;
  }();
  return good;
}

json::Value Leaf(FuzzedDataProvider& in) {
  switch (in.ConsumeIntegralInRange(0, 9)) {
    case 0:
      return nullptr;
    case 1:
      return in.ConsumeBool();
    case 2:
      return in.ConsumeIntegral<int64_t>();
    case 3:
      return in.ConsumeIntegral<uint64_t>();
    case 4:
      return in.ConsumeFloatingPoint<double>();
    case 5:
      return json::Array{};
    case 6:
      return json::Object{};
    case 7:
      return json::Value("/" + in.ConsumeRandomLengthString(40));
    default:
      return json::Value(in.ConsumeRandomLengthString(80));
  }
}

void Edit(json::Value& root, FuzzedDataProvider& in) {
  json::Value* at = &root;
  for (int depth = 0; depth < 8 && in.ConsumeIntegralInRange(0, 4) != 0; ++depth) {
    if (auto* object = at->if_object(); object && !object->empty())
      at = &(object->begin() + in.ConsumeIntegralInRange<size_t>(0, object->size() - 1))->value();
    else if (auto* array = at->if_array(); array && !array->empty())
      at = &(*array)[in.ConsumeIntegralInRange<size_t>(0, array->size() - 1)];
    else
      break;
  }
  auto* object = at->if_object();
  auto* array = at->if_array();
  if (object && in.ConsumeBool() && !object->empty())
    object->erase(object->begin() + in.ConsumeIntegralInRange<size_t>(0, object->size() - 1));
  else if (array && in.ConsumeBool())
    array->push_back(array->empty() ? Leaf(in) : json::Value(array->front()));
  else if (auto* text = at->if_string(); text && in.ConsumeBool())
    text->append(in.ConsumeRandomLengthString(20));
  else
    *at = Leaf(in);
}

void CheckRefusal(const Error& e, const char* where) {
  if (e.what.empty()) Wrong("a refusal without words", where);
  if (e.code == Code::kInternal) Wrong("a refusal that calls itself internal", e.what);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  std::string text;
  if (data[0] < 128) {
    text.assign(reinterpret_cast<const char*>(data + 1), size - 1);
  } else {
    FuzzedDataProvider in(data + 1, size - 1);
    json::Value value = Good();
    for (int edits = in.ConsumeIntegralInRange(1, 6); edits > 0; --edits) Edit(value, in);
    text = json::Serialize(value);
  }
  if (auto process = ParseProcess(text, "process"); process && !ValidateProcess(*process)) {
  }
  (void)json::Parse<Resources>(text, "resources");

  auto spec = ParseSpec(text, "config.json");
  if (!spec) {
    CheckRefusal(spec.error(), "parse");
    if (!spec.error().what.starts_with("config.json"))
      Wrong("a refusal that does not name the document", spec.error().what);
    return 0;
  }
  std::string written = json::ToText(*spec);
  auto again = ParseSpec(written, "config.json");
  if (!again) Wrong("what was accepted is refused when it is written", again.error().what);
  if (json::ToText(*again) != written) Wrong("what was accepted changes when it is written", written);

  auto valid = ValidateSpec(*spec);
  if (!valid) {
    CheckRefusal(valid.error(), "check");
    return 0;
  }
  PlanInput input;
  input.spec = &*spec;
  input.id = "fuzz";
  input.bundle = "/tmp";
  auto prepared = MakePlan(input);
  if (!prepared) {
    if (prepared.error().what.empty()) Wrong("a refusal without words", "plan");
    return 0;
  }
  init::Failure failure;
  init::Plan room;
  auto fds = prepared->RawFds();
  if (!init::CheckPlan(prepared->plan.data(), prepared->plan.size(), fds.size(), &room, &failure))
    Wrong("a plan that the executor refuses", failure.what);
  return 0;
}
