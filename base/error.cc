#include "base/error.h"

#include <cstring>

namespace berth {
namespace {

struct Row {
  Code code;
  std::string_view name;
  int grpc;
  int http;
};

// The one place that knows both outer vocabularies: gRPC status codes and HTTP status.
constexpr Row kRows[] = {
    {Code::kInvalidArgument, "invalid_argument", 3, 400},
    {Code::kNotFound, "not_found", 5, 404},
    {Code::kAlreadyExists, "already_exists", 6, 409},
    {Code::kConflict, "conflict", 9, 409},
    {Code::kNotModified, "not_modified", 0, 304},
    {Code::kFailedPrecondition, "failed_precondition", 9, 500},
    {Code::kPermissionDenied, "permission_denied", 7, 403},
    {Code::kUnauthenticated, "unauthenticated", 16, 401},
    {Code::kResourceExhausted, "resource_exhausted", 8, 429},
    {Code::kDeadlineExceeded, "deadline_exceeded", 4, 504},
    {Code::kCancelled, "cancelled", 1, 499},
    {Code::kUnavailable, "unavailable", 14, 503},
    {Code::kUnimplemented, "unimplemented", 12, 501},
    {Code::kDataLoss, "data_loss", 15, 500},
    {Code::kInternal, "internal", 13, 500},
};

const Row& RowOf(Code code) {
  for (const Row& row : kRows)
    if (row.code == code) return row;
  __builtin_unreachable();
}

}  // namespace

std::string_view CodeName(Code code) { return RowOf(code).name; }
int GrpcStatus(Code code) { return RowOf(code).grpc; }
int HttpStatus(Code code) { return RowOf(code).http; }

Code CodeFromErrno(int err) {
  switch (err) {
    case ENOENT:
    case ESRCH:
    case ENODEV:
      return Code::kNotFound;
    case EEXIST:
      return Code::kAlreadyExists;
    case EBUSY:
    case ENOTEMPTY:
    case ETXTBSY:
    case EADDRINUSE:
      return Code::kConflict;
    case EACCES:
    case EPERM:
    case EROFS:
      return Code::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case EAGAIN:
      return Code::kResourceExhausted;
    case ETIMEDOUT:
      return Code::kDeadlineExceeded;
    case ECANCELED:
      return Code::kCancelled;
    case ECONNREFUSED:
    case ECONNRESET:
    case ENETUNREACH:
    case EHOSTUNREACH:
    case EPIPE:
      return Code::kUnavailable;
    case EINVAL:
    case ENAMETOOLONG:
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
      return Code::kInvalidArgument;
    case ENOSYS:
    case EOPNOTSUPP:
      return Code::kUnimplemented;
    case EUCLEAN:
    case EBADMSG:
      return Code::kDataLoss;
    default:
      return Code::kInternal;
  }
}

std::string ErrnoText(int err) {
  char buffer[128];
  return strerror_r(err, buffer, sizeof buffer);
}

}  // namespace berth
