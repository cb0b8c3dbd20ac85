#pragma once
// Whether this kernel, on this filesystem, serves layers from their tars: found out by doing it, in the data root
// itself. A version would not do: kernels 6.12 to 7.0-rc5 without a certain repair (commit eade54040384) hand out zeros
// where the tar is short.
//
// The answer is kept in <root>/erofs-probe and asked again when the kernel release or the filesystem changes; a refusal
// also after a reboot, since a module may have come. Runs in about 5 ms.
#include <memory>
#include <string>

#include "base/db.h"
#include "images/options.h"
#include "images/snapshots/layout.h"
#include "images/snapshots/snapshotter.h"

namespace berth::images {

struct ErofsProbe {
  bool works = false;
  std::string reason;  // why not, in words for an operator; empty when it works
  bool cached = false;
};

// Errors only when the data root itself cannot be used. `fresh` does not look at the kept answer.
Result<ErofsProbe> ProbeErofs(const Layout& layout, bool fresh);

// That overlayfs takes a writable directory of the data root: kFailedPrecondition with the fix if not.
Result<void> ProbeOverlay(const Layout& layout);

// What the configuration asks for (Options::snapshotter): "auto" takes erofs if the probe passes, else directory, and
// logs which and why. "erofs" where it does not work is kFailedPrecondition saying what is missing. Any other word:
// kInvalidArgument. Call Collect once afterwards, before anything else. `db` must outlive the result.
Result<std::unique_ptr<Snapshotter>> OpenSnapshotter(const Options& options, Db& db);

}  // namespace berth::images
