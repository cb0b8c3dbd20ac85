// A start plan as it may arrive over a socket: what the executor's check lets through must be safe to read as the
// executor reads it, every string ended, every array and descriptor inside. The input is laid over a header whose size
// and magic are right.
#include <linux/filter.h>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "runtime/init/child.h"

namespace {

using namespace berth::init;

volatile size_t sink;

struct Reader {
  const char* base;
  const Plan& plan;
  size_t fds;

  void Text(Str s) const { sink = sink + strlen(base + s); }
  void Texts(Slice s) const {
    const Str* at = reinterpret_cast<const Str*>(base + s.offset);
    for (uint32_t i = 0; i < s.count; ++i) Text(at[i]);
  }
  void Fd(FdIndex i) const {
    if (i >= static_cast<FdIndex>(fds)) abort();
  }
  template <class T>
  void Bytes(Slice s) const {
    const char* p = base + s.offset;
    for (size_t i = 0; i < s.count * sizeof(T); ++i) sink = sink + static_cast<unsigned char>(p[i]);
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  size_t fds = data[0] % 8;
  // The exact size, so that the sanitizer sees a read past the end; aligned as a mapping is.
  size_t total = sizeof(Plan) + (size - 1 > sizeof(Plan) ? size - 1 - sizeof(Plan) : 0);
  char* bytes = static_cast<char*>(aligned_alloc(8, (total + 7) & ~size_t{7}));
  total = (total + 7) & ~size_t{7};
  memset(bytes, 0, total);
  memcpy(bytes, data + 1, size - 1 < total ? size - 1 : total);
  Plan* plan = reinterpret_cast<Plan*>(bytes);
  plan->magic = kPlanMagic;
  plan->version = data[0] & 16 ? 1 : kPlanVersion;
  plan->size = static_cast<uint32_t>(total);
  plan->fd_count = static_cast<uint32_t>(fds);
  plan->kind = data[0] & 8 ? PlanKind::kContainer : PlanKind::kExec;
  Failure failure;
  Plan room;
  if (const Plan* p = CheckPlan(bytes, total, fds, &room, &failure)) {
    Reader r{bytes, *p, fds};
    for (Str s : {p->hostname, p->domainname, p->path, p->cwd, p->keyring, p->apparmor, p->selinux}) r.Text(s);
    for (FdIndex fd : {p->pid_namespace, p->target, p->cgroup2, p->rootfs, p->null_tree, p->listen}) r.Fd(fd);
    for (Slice s : {p->args, p->env, p->masked, p->readonly_paths}) r.Texts(s);
    if (p->args.count == 0) abort();
    r.Bytes<uint32_t>(p->groups);
    r.Bytes<Limit>(p->rlimits);
    r.Bytes<sock_filter>(p->seccomp);
    r.Bytes<Join>(p->joins);
    const FdIndex* tasks = reinterpret_cast<const FdIndex*>(bytes + p->cgroup1.offset);
    for (uint32_t i = 0; i < p->cgroup1.count; ++i) r.Fd(tasks[i]);
    const Join* joins = reinterpret_cast<const Join*>(bytes + p->joins.offset);
    for (uint32_t i = 0; i < p->joins.count; ++i) r.Fd(joins[i].fd);
    const Setting* settings = reinterpret_cast<const Setting*>(bytes + p->sysctls.offset);
    for (uint32_t i = 0; i < p->sysctls.count; ++i) {
      r.Text(settings[i].name);
      r.Text(settings[i].value);
    }
    const Op* ops = reinterpret_cast<const Op*>(bytes + p->ops.offset);
    for (uint32_t i = 0; i < p->ops.count; ++i) {
      r.Fd(ops[i].fd);
      for (Str s : {ops[i].target, ops[i].source, ops[i].type, ops[i].data}) r.Text(s);
      if (bytes[ops[i].target] != '/') abort();
    }
  }
  free(bytes);
  return 0;
}
