# Libraries: found through pkg-config or by name, so that Debian, Ubuntu, environment modules, Spack and conda-forge
# all serve (set CMAKE_PREFIX_PATH where they live outside the system).
find_package(PkgConfig QUIET)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)

# Declares TARGET from a header and a library; says which package has it where it is missing.
function(require_library target header library package)
  string(MAKE_C_IDENTIFIER ${library} id)
  find_path(${id}_INCLUDE ${header})
  find_library(${id}_LIBRARY ${library})
  mark_as_advanced(${id}_INCLUDE ${id}_LIBRARY)
  if(NOT ${id}_INCLUDE OR NOT ${id}_LIBRARY)
    message(FATAL_ERROR "${header} or lib${library} not found: install ${package} (Debian, Ubuntu), load its module, "
                        "or set CMAKE_PREFIX_PATH to where it is; ./workshop build does the first for you")
  endif()
  add_library(${target} INTERFACE IMPORTED)
  target_include_directories(${target} SYSTEM INTERFACE ${${id}_INCLUDE})
  target_link_libraries(${target} INTERFACE ${${id}_LIBRARY})
endfunction()

require_library(jansson::jansson jansson.h jansson libjansson-dev)
require_library(PCRE2::8BIT pcre2.h pcre2-8 libpcre2-dev)

find_path(UTHASH_INCLUDE uthash.h)
mark_as_advanced(UTHASH_INCLUDE)
if(NOT UTHASH_INCLUDE)
  message(FATAL_ERROR "uthash.h not found: install uthash-dev (Debian, Ubuntu) or set CMAKE_PREFIX_PATH")
endif()
add_library(uthash::uthash INTERFACE IMPORTED)
target_include_directories(uthash::uthash SYSTEM INTERFACE ${UTHASH_INCLUDE})

if(NOT WORKSHOP_BACKEND STREQUAL "dry")
  find_package(MPI REQUIRED COMPONENTS C)
endif()

if(WORKSHOP_TESTS)
  require_library(cmocka::cmocka cmocka.h cmocka libcmocka-dev)
endif()

# Matrix products of the CPU backend: oneDNN, else any CBLAS (several times slower where it is OpenBLAS 0.3.21,
# which takes newer Xeons for a Prescott).
if(WORKSHOP_BACKEND STREQUAL "cpu")
  find_path(DNNL_INCLUDE dnnl.h)
  find_library(DNNL_LIBRARY dnnl)
  mark_as_advanced(DNNL_INCLUDE DNNL_LIBRARY)
  add_library(products INTERFACE)
  if(DNNL_INCLUDE AND DNNL_LIBRARY)
    target_include_directories(products SYSTEM INTERFACE ${DNNL_INCLUDE})
    target_link_libraries(products INTERFACE ${DNNL_LIBRARY})
    target_compile_definitions(products INTERFACE WORKSHOP_DNNL)
  else()
    find_path(CBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas)
    find_library(CBLAS_LIBRARY NAMES openblas blis cblas)
    mark_as_advanced(CBLAS_INCLUDE CBLAS_LIBRARY)
    if(NOT CBLAS_INCLUDE OR NOT CBLAS_LIBRARY)
      message(FATAL_ERROR "no matrix products: install libdnnl-dev (oneDNN), or any CBLAS as a slower substitute")
    endif()
    message(WARNING "oneDNN (libdnnl-dev) not found: matrix products come from ${CBLAS_LIBRARY}, which may be several "
                    "times slower")
    target_include_directories(products SYSTEM INTERFACE ${CBLAS_INCLUDE})
    target_link_libraries(products INTERFACE ${CBLAS_LIBRARY})
  endif()
endif()
