// Every unary RPC of the three services with every field wrong, one at a time: the server must answer a documented
// code, name the field where it refuses, and live on. The requests come from the descriptors, so new fields are tried
// too.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/dynamic_message.h>
#include <grpcpp/generic/generic_stub.h>

#include "cri/testing/served.h"

namespace berth::cri::testing {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::MethodDescriptor;
using grpc::StatusCode;

// One call without generated code. A server stream is read to its status.
grpc::Status CallRaw(grpc::Channel& channel, const std::string& path, const std::string& bytes) {
  grpc::Slice slice(bytes);
  grpc::ByteBuffer request(&slice, 1);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
  grpc::CompletionQueue queue;
  grpc::GenericStub stub(std::shared_ptr<grpc::ChannelInterface>(&channel, [](auto*) {}));
  auto call = stub.PrepareUnaryCall(&context, path, request, &queue);
  call->StartCall();
  grpc::ByteBuffer response;
  grpc::Status status;
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  return status;
}

// Sets one field of `message` to each bad value in turn and calls `visit` with it in place; goes into messages.
class Spoiler {
 public:
  explicit Spoiler(std::function<void(const std::string&)> visit) : visit_(std::move(visit)) {}

  void Spoil(Message& root) { Walk(root, "", 0); }

 private:
  void Walk(Message& message, const std::string& path, int depth) {
    const Descriptor* type = message.GetDescriptor();
    for (int i = 0; i < type->field_count(); ++i)
      Field(message, type->field(i), path + "." + type->field(i)->name(), depth);
  }

  void Field(Message& message, const FieldDescriptor* field, const std::string& path, int depth) {
    const auto* r = message.GetReflection();
    std::unique_ptr<Message> before(message.New());
    before->CopyFrom(message);
    auto restore = [&] {
      r->ClearField(&message, field);
      std::unique_ptr<Message> copy(before->New());
      copy->CopyFrom(*before);
      r->SwapFields(&message, copy.get(), {field});
    };
    if (field->is_repeated() && field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE && depth < 2) {
      for (int n = 0; n < 65537; ++n) Add(message, field);
      visit_(path + " x65537");
      restore();
    }
    if (field->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
      r->ClearField(&message, field);
      visit_(path + " absent");
      restore();
      if (depth < 6) {
        Message* inner = field->is_repeated() ? r->AddMessage(&message, field) : r->MutableMessage(&message, field);
        visit_(path + " empty or as it was");
        Walk(*inner, path, depth + 1);
        restore();
      }
      return;
    }
    for (size_t v = 0; Set(message, field, v); ++v) {
      visit_(path + " #" + std::to_string(v));
      restore();
    }
  }

  static void Add(Message& message, const FieldDescriptor* field) {
    const auto* r = message.GetReflection();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING:
        r->AddString(&message, field, "x");
        break;
      case FieldDescriptor::CPPTYPE_INT32:
        r->AddInt32(&message, field, 1);
        break;
      case FieldDescriptor::CPPTYPE_INT64:
        r->AddInt64(&message, field, 1);
        break;
      case FieldDescriptor::CPPTYPE_UINT64:
        r->AddUInt64(&message, field, 1);
        break;
      default:
        break;
    }
  }

  // The v-th bad value; false past the last.
  static bool Set(Message& message, const FieldDescriptor* field, size_t v) {
    const auto* r = message.GetReflection();
    const bool many = field->is_repeated();
    switch (field->cpp_type()) {
      case FieldDescriptor::CPPTYPE_STRING: {
        static const std::vector<std::string> kBad = {"",
                                                      std::string("a\0b", 3),
                                                      std::string(300, 'a'),
                                                      "../../etc/passwd",
                                                      "/..",
                                                      "/",
                                                      "two\nlines",
                                                      "=",
                                                      ":",
                                                      "a b",
                                                      "%s%n",
                                                      "\xc3\xbc",
                                                      std::string((1 << 20) + 1, 'x')};
        if (v >= kBad.size()) return false;
        many ? r->AddString(&message, field, kBad[v]) : r->SetString(&message, field, kBad[v]);
        return true;
      }
      case FieldDescriptor::CPPTYPE_INT32: {
        static constexpr int32_t kBad[] = {INT32_MIN, -1, 0, 1, 65536, INT32_MAX};
        if (v >= std::size(kBad)) return false;
        many ? r->AddInt32(&message, field, kBad[v]) : r->SetInt32(&message, field, kBad[v]);
        return true;
      }
      case FieldDescriptor::CPPTYPE_INT64: {
        static constexpr int64_t kBad[] = {INT64_MIN, -1, 1, UINT32_MAX, INT64_MAX};
        if (v >= std::size(kBad)) return false;
        many ? r->AddInt64(&message, field, kBad[v]) : r->SetInt64(&message, field, kBad[v]);
        return true;
      }
      case FieldDescriptor::CPPTYPE_UINT32:
        if (v > 0 || many) return false;
        r->SetUInt32(&message, field, UINT32_MAX);
        return true;
      case FieldDescriptor::CPPTYPE_UINT64:
        if (v > 0 || many) return false;
        r->SetUInt64(&message, field, UINT64_MAX);
        return true;
      case FieldDescriptor::CPPTYPE_BOOL:
        if (v > 0 || many) return false;
        r->SetBool(&message, field, !r->GetBool(message, field));
        return true;
      case FieldDescriptor::CPPTYPE_ENUM: {
        const int count = field->enum_type()->value_count();
        const int bad[] = {-1, count, 1 << 30, 1 % count, 2 % count, 3 % count};
        if (v >= std::size(bad)) return false;
        many ? r->AddEnumValue(&message, field, bad[v]) : r->SetEnumValue(&message, field, bad[v]);
        return true;
      }
      default:
        return false;
    }
  }

  std::function<void(const std::string&)> visit_;
};

// A request that works, where one is needed to get past the first checks.
void MakeGood(Message& request, const std::string& pod, const std::string& container) {
  const auto* type = request.GetDescriptor();
  const auto* r = request.GetReflection();
  auto set = [&](const char* name, const std::string& value) {
    if (const auto* field = type->FindFieldByName(name);
        field != nullptr && field->cpp_type() == FieldDescriptor::CPPTYPE_STRING && !field->is_repeated())
      r->SetString(&request, field, value);
  };
  set("pod_sandbox_id", pod);
  set("container_id", container);
  std::string name = type->name();
  if (name == "RunPodSandboxRequest") request.CopyFrom(Served::Pod("hostile"));
  if (name == "CreateContainerRequest") request.CopyFrom(Served::Container(pod, "hostile"));
  if (const auto* cmd = type->FindFieldByName("cmd"); cmd != nullptr && cmd->is_repeated())
    r->AddString(&request, cmd, "true");
  if (const auto* image = type->FindFieldByName("image");
      image != nullptr && image->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    Message* spec = r->MutableMessage(&request, image);
    spec->GetReflection()->SetString(spec, spec->GetDescriptor()->FindFieldByName("image"), "docker.io/library/app:1");
  }
}

TEST(Hostile, EveryFieldOfEveryRequest) {
  Served s;
  s.agent.launcher.OnExec([](const runtime::ExecLaunch&) { return 0; });
  const std::string container = s.Running();
  const std::string pod = s.RunPod();  // the one it runs in
  const std::set<int> documented = {StatusCode::OK,
                                    StatusCode::INVALID_ARGUMENT,
                                    StatusCode::NOT_FOUND,
                                    StatusCode::ALREADY_EXISTS,
                                    StatusCode::FAILED_PRECONDITION,
                                    StatusCode::UNIMPLEMENTED,
                                    StatusCode::PERMISSION_DENIED,
                                    StatusCode::RESOURCE_EXHAUSTED,
                                    StatusCode::UNAUTHENTICATED};
  size_t calls = 0, refused = 0;
  for (const auto* file : {api::VersionRequest::descriptor()->file(), wire::InfoRequest::descriptor()->file()})
    for (int i = 0; i < file->service_count(); ++i)
      for (int m = 0; m < file->service(i)->method_count(); ++m) {
        const MethodDescriptor* method = file->service(i)->method(m);
        if (method->client_streaming() || method->name() == "Wait") continue;  // Wait waits: the container runs on
        // Stopping and removing what the other calls need is for another test.
        const bool ends = method->name().starts_with("Stop") || method->name().starts_with("Remove");
        const std::string path = "/" + file->service(i)->full_name() + "/" + method->name();
        std::unique_ptr<Message> request(
            google::protobuf::MessageFactory::generated_factory()->GetPrototype(method->input_type())->New());
        if (!ends) MakeGood(*request, pod, container);
        Spoiler([&](const std::string& what) {
          auto status = CallRaw(*s.channel, path, request->SerializeAsString());
          ++calls;
          if (!status.ok()) ++refused;
          EXPECT_TRUE(documented.contains(status.error_code()))
              << method->name() << what << ": " << status.error_code() << " " << status.error_message();
          if (status.error_code() == StatusCode::INVALID_ARGUMENT)
            EXPECT_NE(status.error_message().find(':'), std::string::npos)
                << method->name() << what << ": " << status.error_message();
          EXPECT_LE(status.error_message().size(), 2100u);
        }).Spoil(*request);
      }
  EXPECT_GT(calls, 2000u);
  EXPECT_GT(refused, 1000u);
  EXPECT_EQ(s.Status(container).state(), api::CONTAINER_RUNNING);
}

TEST(Hostile, BytesThatAreNoMessage) {
  Served s;
  for (const std::string& bytes :
       {std::string("\xff\xff\xff\xff"), std::string(1000, '\x0a'), std::string("\x0a\xff\xff\xff\xff\x0f", 6)}) {
    auto status = CallRaw(*s.channel, "/runtime.v1.RuntimeService/RunPodSandbox", bytes);
    EXPECT_FALSE(status.ok());
  }
  // A string that is not UTF-8.
  EXPECT_FALSE(
      CallRaw(*s.channel, "/runtime.v1.RuntimeService/StopContainer", std::string("\x0a\x02\xff\xfe", 4)).ok());
  // Messages inside messages, deeper than anything real.
  std::string nested;
  for (int i = 0; i < 500; ++i)
    nested = "\x0a" + std::string(1, static_cast<char>(std::min<size_t>(nested.size(), 127))) + nested.substr(0, 127);
  CallRaw(*s.channel, "/runtime.v1.RuntimeService/RunPodSandbox", nested);
  EXPECT_EQ(CallRaw(*s.channel, "/runtime.v1.RuntimeService/NoSuchCall", "").error_code(), StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(CallRaw(*s.channel, "/runtime.v1alpha2.RuntimeService/Version", "").error_code(),
            StatusCode::UNIMPLEMENTED);
  api::VersionResponse response;
  EXPECT_TRUE(s.Call(&api::RuntimeService::Stub::Version, *s.runtime, {}, response).ok());
}

}  // namespace
}  // namespace berth::cri::testing
