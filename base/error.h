#pragma once
// Errors: one type for the whole project.
//
// A function that can fail returns Result<T>. The code is chosen where the fact is known and never guessed later from a
// message; callers prepend context with Wrap. An error is logged once, at the door that answers the caller.
#include <cerrno>
#include <expected>
#include <source_location>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <fmt/format.h>

namespace berth {

enum class Code : uint8_t {
  kInvalidArgument,     // the caller's input is wrong; the text names the field and what would be right
  kNotFound,            // no such object
  kAlreadyExists,       // the name or id is taken
  kConflict,            // the object is in a state that forbids this (also: in use)
  kNotModified,         // already as asked
  kFailedPrecondition,  // the machine or the configuration lacks something; the text names the fix
  kPermissionDenied,    // refused by policy or by a remote side
  kUnauthenticated,     // credentials missing or wrong
  kResourceExhausted,   // a limit was reached: disk, memory, addresses, connections
  kDeadlineExceeded,    // time ran out; the text says what was waited for
  kCancelled,           // the caller went away
  kUnavailable,         // the other side cannot be reached; trying again may help
  kUnimplemented,       // truthfully not there
  kDataLoss,            // bytes do not match their digest, a record is damaged
  kInternal,            // a broken assumption of ours
};

std::string_view CodeName(Code code);   // "not_found": for logs and metric labels
int GrpcStatus(Code code);              // number of grpc::StatusCode
int HttpStatus(Code code);
Code CodeFromErrno(int err);            // ENOENT -> kNotFound, ENOSPC -> kResourceExhausted, ...

struct Error {
  Code code = Code::kInternal;
  std::string what;                     // a sentence without a final dot, most general context first
  int sys = 0;                          // errno when a system call failed, else 0
  std::source_location at;
};

template <class T = void>
struct [[nodiscard]] Result : std::expected<T, Error> {
  using std::expected<T, Error>::expected;
};

// A format checked at compile time, with the location of the call.
template <class... Args>
struct BasicFormatAt {
  fmt::format_string<Args...> format;
  std::source_location at;
  // NOLINTNEXTLINE(google-explicit-constructor): a literal becomes a format with its location.
  consteval BasicFormatAt(const char* f, std::source_location l = std::source_location::current()) : format(f), at(l) {}
};
template <class... Args>
using FormatAt = BasicFormatAt<std::type_identity_t<Args>...>;

// Err(Code::kNotFound, "image {}: not in the store", name). The location is that of the call.
template <class... Args>
std::unexpected<Error> Err(Code code, FormatAt<const Args&...> f, const Args&... args) {
  return std::unexpected(Error{code, fmt::format(f.format, args...), 0, f.at});
}

// For a failed system call: appends ": <strerror>", keeps errno and derives the code from it. errno is read before the
// arguments are formatted: SysErr("open {}", path).
std::string ErrnoText(int err);  // thread-safe strerror

template <class... Args>
std::unexpected<Error> SysErr(FormatAt<const Args&...> f, const Args&... args) {
  const int err = errno;
  return std::unexpected(Error{CodeFromErrno(err), fmt::format(f.format, args...) + ": " + ErrnoText(err), err, f.at});
}
// The same for an error number that came another way (netlink answers, posix_spawn).
template <class... Args>
std::unexpected<Error> SysErrOf(int err, FormatAt<const Args&...> f, const Args&... args) {
  return std::unexpected(Error{CodeFromErrno(err), fmt::format(f.format, args...) + ": " + ErrnoText(err), err, f.at});
}

// Prepends context and keeps code, errno and location.
template <class... Args>
std::unexpected<Error> Wrap(Error e, fmt::format_string<Args...> f, Args&&... args) {
  e.what = fmt::format(f, std::forward<Args>(args)...) + ": " + e.what;
  return std::unexpected(std::move(e));
}

// auto fd = TRY(Open(path));   returns the error to the caller, else yields the value.
#define TRY(...)                                                            \
  ({                                                                        \
    auto&& try_result_ = (__VA_ARGS__);                                     \
    if (!try_result_.has_value()) [[unlikely]]                              \
      return ::std::unexpected(::std::move(try_result_).error());           \
    *::std::move(try_result_);                                              \
  })

// TRY_CTX(Open(path), "layer {}", digest): TRY with Wrap.
#define TRY_CTX(expr, ...)                                                  \
  ({                                                                        \
    auto&& try_result_ = (expr);                                            \
    if (!try_result_.has_value()) [[unlikely]]                              \
      return ::berth::Wrap(::std::move(try_result_).error(), __VA_ARGS__);  \
    *::std::move(try_result_);                                              \
  })

}  // namespace berth
