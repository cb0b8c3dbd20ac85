// Empty: see CMakeLists.txt.
namespace berth {
extern const int kNoSpdlog = 0;
}
