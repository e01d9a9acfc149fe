# Libraries: found by name, so that Debian, Ubuntu, environment modules, Spack and conda-forge all serve (set
# CMAKE_PREFIX_PATH where they live outside the system).
#
# Everything is looked for before anything is complained about. What is missing is printed as one line of Debian's
# package names, "-- missing: …", which ./workshop reads: it installs them, or says how else to get them.
set(missing "")

# Declares TARGET from a header and, unless LIBRARY is empty, a library; both come with a Debian package.
function(require_library target header library package)
  string(MAKE_C_IDENTIFIER ${target} id)
  find_path(${id}_INCLUDE ${header})
  mark_as_advanced(${id}_INCLUDE)
  set(found ${${id}_INCLUDE})
  if(library)
    find_library(${id}_LIBRARY ${library})
    mark_as_advanced(${id}_LIBRARY)
    if(NOT ${id}_LIBRARY)
      set(found OFF)
    endif()
  endif()
  if(NOT found)
    set(missing ${missing} ${package} PARENT_SCOPE)
    return()
  endif()
  add_library(${target} INTERFACE IMPORTED)
  target_include_directories(${target} SYSTEM INTERFACE ${${id}_INCLUDE})
  if(library)
    target_link_libraries(${target} INTERFACE ${${id}_LIBRARY})
  endif()
endfunction()

find_package(Threads REQUIRED)
find_package(OpenMP COMPONENTS C)
if(NOT OpenMP_C_FOUND)
  list(APPEND missing libomp-dev) # gcc brings its own
endif()

require_library(jansson::jansson jansson.h jansson libjansson-dev)
require_library(uthash::uthash uthash.h "" uthash-dev)
if(WORKSHOP_TESTS)
  require_library(cmocka::cmocka cmocka.h cmocka libcmocka-dev)
endif()

# Ranks: the dry backend plays all of them in one process.
if(NOT WORKSHOP_BACKEND STREQUAL "dry")
  find_package(MPI COMPONENTS C)
  if(NOT MPI_C_FOUND)
    list(APPEND missing libopenmpi-dev)
  endif()
  if(NOT MPIEXEC_EXECUTABLE)
    list(APPEND missing openmpi-bin)
  endif()
endif()

# Matrix products of the CPU backend: oneDNN, else any CBLAS (several times slower where it is OpenBLAS 0.3.21,
# which takes newer Xeons for a Prescott).
set(substitute OFF)
if(WORKSHOP_BACKEND STREQUAL "cpu")
  require_library(dnnl::dnnl dnnl.h dnnl libdnnl-dev)
  add_library(products INTERFACE)
  if(TARGET dnnl::dnnl)
    target_link_libraries(products INTERFACE dnnl::dnnl)
    target_compile_definitions(products INTERFACE WORKSHOP_DNNL)
  else()
    find_path(CBLAS_INCLUDE cblas.h PATH_SUFFIXES openblas)
    find_library(CBLAS_LIBRARY NAMES openblas blis cblas)
    mark_as_advanced(CBLAS_INCLUDE CBLAS_LIBRARY)
    if(CBLAS_INCLUDE AND CBLAS_LIBRARY)
      set(substitute ON)
      target_include_directories(products SYSTEM INTERFACE ${CBLAS_INCLUDE})
      target_link_libraries(products INTERFACE ${CBLAS_LIBRARY})
    endif()
  endif()
endif()

if(missing)
  list(JOIN missing " " packages)
  message(STATUS "missing: ${packages}")
endif()
if(substitute)
  message(WARNING "oneDNN (libdnnl-dev) not found: matrix products come from ${CBLAS_LIBRARY}, which may be several "
                  "times slower")
  list(REMOVE_ITEM missing libdnnl-dev)
endif()
if(missing)
  message(FATAL_ERROR "libraries are missing (Debian's names above): ./workshop build installs them or says how to get "
                      "them; set CMAKE_PREFIX_PATH where they are outside the system")
endif()
