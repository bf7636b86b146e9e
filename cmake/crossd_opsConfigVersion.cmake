# Tells find_package(crossd_ops VERSION) whether the version fits: the header says which one this is.
file(GLOB _crossd_ops_header
  "${CMAKE_CURRENT_LIST_DIR}/../csrc/include/crossd_ops/crossd_ops.h"
  "${CMAKE_CURRENT_LIST_DIR}/../../../include/crossd_ops/crossd_ops.h"
  "${CMAKE_CURRENT_LIST_DIR}/../../../../include/crossd_ops/crossd_ops.h")
file(STRINGS "${_crossd_ops_header}" _crossd_ops_lines REGEX "#define CROSSD_OPS_VERSION_")
string(REGEX REPLACE "[^0-9]*MAJOR ([0-9]+).*MINOR ([0-9]+).*PATCH ([0-9]+).*" "\\1.\\2.\\3" PACKAGE_VERSION
  "${_crossd_ops_lines}")

# Below 1.0 a new minor version may change what a project relies on, from then on a new major version.
string(REGEX MATCH "^(0\\.[0-9]+|[0-9]+)" _crossd_ops_series "${PACKAGE_VERSION}")
string(REGEX MATCH "^(0\\.[0-9]+|[0-9]+)" _crossd_ops_wanted "${PACKAGE_FIND_VERSION}")
if(NOT PACKAGE_VERSION VERSION_LESS PACKAGE_FIND_VERSION AND _crossd_ops_series STREQUAL _crossd_ops_wanted)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
if(PACKAGE_VERSION VERSION_EQUAL PACKAGE_FIND_VERSION)
  set(PACKAGE_VERSION_EXACT TRUE)
endif()
