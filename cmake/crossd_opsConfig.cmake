# find_package(crossd_ops CONFIG): the target crossd_ops::crossd_ops, with headers, library and Torch.
#
# The same file for every place that it is found in: the package folder of an installed wheel
# (crossd_ops.cmake_prefix_path), a prefix of "cmake --install", a checkout that was built in place.
include(CMakeFindDependencyMacro)
if(NOT TARGET torch)  # a project may bring its own
  find_dependency(Torch)
endif()

# PREFIX/lib/cmake/crossd_ops, PREFIX/lib/ARCHITECTURE/cmake/crossd_ops, or CHECKOUT/cmake
set(_crossd_ops_library "${CMAKE_CURRENT_LIST_DIR}/../../libcrossd_ops.so")
if(EXISTS "${CMAKE_CURRENT_LIST_DIR}/../csrc/include")
  set(_crossd_ops_library "${CMAKE_CURRENT_LIST_DIR}/../crossd_ops/lib/libcrossd_ops.so")
endif()
get_filename_component(_crossd_ops_library "${_crossd_ops_library}" ABSOLUTE)
file(GLOB _crossd_ops_header
  "${CMAKE_CURRENT_LIST_DIR}/../csrc/include/crossd_ops/crossd_ops.h"
  "${CMAKE_CURRENT_LIST_DIR}/../../../include/crossd_ops/crossd_ops.h"
  "${CMAKE_CURRENT_LIST_DIR}/../../../../include/crossd_ops/crossd_ops.h")
if(NOT EXISTS "${_crossd_ops_library}" OR NOT _crossd_ops_header)
  set(crossd_ops_FOUND FALSE)
  set(crossd_ops_NOT_FOUND_MESSAGE "${_crossd_ops_library} or crossd_ops/crossd_ops.h is missing: install crossd_ops again")
  return()
endif()
list(GET _crossd_ops_header 0 _crossd_ops_header)
get_filename_component(_crossd_ops_include "${_crossd_ops_header}/../.." ABSOLUTE)

if(NOT TARGET crossd_ops::crossd_ops)
  add_library(crossd_ops::library SHARED IMPORTED)
  set_target_properties(crossd_ops::library PROPERTIES IMPORTED_LOCATION "${_crossd_ops_library}")
  add_library(crossd_ops::crossd_ops INTERFACE IMPORTED)
  # The library registers operators when it is loaded, and no symbol of it is referred to: linkers told --as-needed,
  # which torch's own targets do, would drop it. The second mention sets the run path.
  set_target_properties(crossd_ops::crossd_ops PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES "${_crossd_ops_include}"
    INTERFACE_COMPILE_FEATURES cxx_std_20
    INTERFACE_LINK_LIBRARIES
      "-Wl,--push-state,--no-as-needed,\"${_crossd_ops_library}\",--pop-state;crossd_ops::library;torch;${TORCH_LIBRARIES}")
endif()
