#pragma once
// Asks a monitor for its containers, for people and scripts while no agent runs: `berth-shim facts RUN_DIR/shim.sock`. Part
// of berth-shim.
namespace berth::shim {

// Prints one line of name=value pairs for each container on stdout. Exit status: 0, or 1 with the reason on stderr.
int PrintFacts(const char* socket_path);

}  // namespace berth::shim
