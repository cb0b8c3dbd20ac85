#include "runtime/oci/launch.h"

namespace berth::runtime::oci {

Result<void> Create(const RuntimeHost& host, const CreateRequest& request) {
  int code;
  Created created = TRY(Launch(host, request, true, &code));
  return {};
}

}  // namespace berth::runtime::oci
