# What every folder's CMakeLists.txt uses: one library, one test program and, for the programs that run inside
# containers' namespaces, a static musl executable without the C++ run time.
include_guard()
include(CheckCXXSourceCompiles)
include(CTest)
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

set(CMAKE_CXX_STANDARD 23)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)

set(BERTH_SANITIZE "" CACHE STRING "Sanitizers for -fsanitize=, empty for none")

find_program(CCACHE ccache)
if(CCACHE)
  # A precompiled header is only cached with these; base_dir makes checkouts in different folders share results.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env
      CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
      CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${CCACHE})
endif()

add_library(berth_flags INTERFACE)
target_compile_options(berth_flags INTERFACE -Wall -Wextra -Werror -Wno-missing-field-initializers -fno-plt
                       -fdiagnostics-color=always $<$<CONFIG:Debug>:-O1> -g1)
target_include_directories(berth_flags INTERFACE ${CMAKE_SOURCE_DIR})
# Empty without sanitizers. A variable, not a generator expression: the list of sanitizers holds commas.
set(BERTH_SANITIZE_OPTION "")
if(BERTH_SANITIZE)
  set(BERTH_SANITIZE_OPTION -fsanitize=${BERTH_SANITIZE})
  target_compile_options(berth_flags INTERFACE ${BERTH_SANITIZE_OPTION} -fno-omit-frame-pointer)
  if(NOT BERTH_SANITIZE STREQUAL "thread")
    target_compile_options(berth_flags INTERFACE -fno-sanitize-recover=all)
  endif()
  target_link_options(berth_flags INTERFACE ${BERTH_SANITIZE_OPTION})
endif()

# Debian's fmt, spdlog as libraries; std headers that every file needs.
add_library(berth_pch OBJECT ${CMAKE_SOURCE_DIR}/cmake/pch.cc)
target_link_libraries(berth_pch PRIVATE berth_flags fmt Threads::Threads)
target_compile_options(berth_pch PRIVATE -fpch-preprocess -Winvalid-pch)
target_precompile_headers(berth_pch PRIVATE ${CMAKE_SOURCE_DIR}/cmake/pch.h)

# Programs end up in <build>/bin, whatever their folder.
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

# `unit_tests` builds every program labelled unit, `tsan_tests` those labelled tsan (base/ and pods/).
add_custom_target(unit_tests)
add_custom_target(tsan_tests)

# berth_library(name SOURCES a.cc ... LINK other libraries ...)
function(berth_library name)
  cmake_parse_arguments(A "NO_PCH" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  target_link_libraries(${name} PUBLIC berth_flags fmt Threads::Threads ${A_LINK})
  if(NOT A_NO_PCH)
    target_compile_options(${name} PRIVATE -fpch-preprocess -Winvalid-pch)
    target_precompile_headers(${name} REUSE_FROM berth_pch)
  endif()
endfunction()

# berth_test(name SOURCES a_test.cc ... LINK libraries ... [LABELS root ...]): one GoogleTest program, one ctest entry
# a program. Label `unit`: no root, milliseconds; `root`: needs privileges and says so itself when they are missing.
function(berth_test name)
  cmake_parse_arguments(A "NO_PCH" "TIMEOUT" "SOURCES;LINK;LABELS" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  target_link_libraries(${name} PRIVATE berth_flags ${A_LINK} fmt gmock gtest gtest_main Threads::Threads)
  if(NOT A_NO_PCH)
    target_compile_options(${name} PRIVATE -fpch-preprocess -Winvalid-pch)
    target_precompile_headers(${name} REUSE_FROM berth_pch)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  if(NOT A_LABELS)
    set(A_LABELS unit)
  endif()
  if(NOT A_TIMEOUT)
    set(A_TIMEOUT 120)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${A_LABELS}" TIMEOUT ${A_TIMEOUT}
    SKIP_RETURN_CODE 77
    ENVIRONMENT "BERTH_SOURCE_DIR=${CMAKE_SOURCE_DIR};BERTH_BUILD_DIR=${CMAKE_BINARY_DIR}")
  foreach(label unit tsan)
    if(label IN_LIST A_LABELS)
      add_dependencies(${label}_tests ${name})
    endif()
  endforeach()
endfunction()

# berth_static_library / berth_static_executable: C++ for processes that live beside or inside containers. musl, no
# exceptions, no RTTI, no C++ run time, no heap (rule kept by review and by the `nm` test in runtime/init).
string(REGEX REPLACE "-gnu$" "-musl" BERTH_MUSL_TRIPLE ${CMAKE_LIBRARY_ARCHITECTURE})
set(BERTH_MUSL_ROOT /usr/lib/${BERTH_MUSL_TRIPLE})
set(_kernel_headers ${CMAKE_BINARY_DIR}/kernel-headers)
file(MAKE_DIRECTORY ${_kernel_headers})
file(CREATE_LINK /usr/include/linux ${_kernel_headers}/linux SYMBOLIC)
file(CREATE_LINK /usr/include/asm-generic ${_kernel_headers}/asm-generic SYMBOLIC)
file(CREATE_LINK /usr/include/${CMAKE_LIBRARY_ARCHITECTURE}/asm ${_kernel_headers}/asm SYMBOLIC)
execute_process(COMMAND ${CMAKE_CXX_COMPILER} -print-file-name=include OUTPUT_VARIABLE _gcc_include
                OUTPUT_STRIP_TRAILING_WHITESPACE)
string(REGEX MATCH "^[0-9]+" _gcc_major ${CMAKE_CXX_COMPILER_VERSION})
add_library(berth_static_flags INTERFACE)
target_compile_options(berth_static_flags INTERFACE -Wall -Wextra -Werror -Wno-missing-field-initializers -O2 -g1
  -fno-exceptions -fno-rtti -fno-threadsafe-statics -fno-asynchronous-unwind-tables -fno-pic -fno-pie
  -fno-stack-protector -ffunction-sections -fdata-sections -nostdinc
  "SHELL:-isystem /usr/include/c++/${_gcc_major}"
  "SHELL:-isystem /usr/include/${CMAKE_LIBRARY_ARCHITECTURE}/c++/${_gcc_major}"
  "SHELL:-isystem /usr/include/${BERTH_MUSL_TRIPLE}" "SHELL:-isystem ${_gcc_include}"
  "SHELL:-isystem ${_kernel_headers}")
target_compile_definitions(berth_static_flags INTERFACE _GLIBCXX_OS_DEFINES BERTH_STATIC=1)
target_include_directories(berth_static_flags INTERFACE ${CMAKE_SOURCE_DIR})

function(berth_static_library name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  add_library(${name} STATIC ${A_SOURCES})
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE OFF)
  target_link_libraries(${name} PUBLIC berth_static_flags ${A_LINK})
endfunction()

function(berth_static_executable name)
  cmake_parse_arguments(A "" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE C POSITION_INDEPENDENT_CODE OFF)
  target_link_libraries(${name} PRIVATE berth_static_flags ${A_LINK})
  target_link_options(${name} PRIVATE -specs=${BERTH_MUSL_ROOT}/musl-gcc.specs -static -no-pie -Wl,--gc-sections)
endfunction()
