# The CUDA toolkit: compiler, libraries, and the GPUs to build for. A login node without a GPU will do.
#
# CMAKE_CUDA_ARCHITECTURES says which GPUs, as compute capabilities without their dot (-DCMAKE_CUDA_ARCHITECTURES=90).
# Where it is not set: the GPUs that are here, else all that the kit knows and the toolkit can build for.
set(known_architectures 70 75 80 86 89 90 120)

if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  find_program(nvcc nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin)
  mark_as_advanced(nvcc)
  if(NOT nvcc)
    message(STATUS "missing: nvidia-cuda-toolkit")
    message(FATAL_ERROR "nvcc, the CUDA compiler, is not found: load your site's CUDA module, or set CUDA_HOME to where "
                        "the toolkit (11.8 or later) is")
  endif()
  set(CMAKE_CUDA_COMPILER ${nvcc})
endif()

# The compute capabilities of the GPUs that are here, each once: "90".
function(visible_architectures result)
  set(${result} "" PARENT_SCOPE)
  find_program(nvidia_smi nvidia-smi)
  mark_as_advanced(nvidia_smi)
  if(NOT nvidia_smi)
    return()
  endif()
  execute_process(COMMAND ${nvidia_smi} --query-gpu=compute_cap --format=csv,noheader
                  OUTPUT_VARIABLE answer ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    return()
  endif()
  string(REGEX MATCHALL "[0-9]+\\.[0-9]+" capabilities "${answer}")
  list(TRANSFORM capabilities REPLACE "\\." "")
  list(REMOVE_DUPLICATES capabilities)
  set(${result} "${capabilities}" PARENT_SCOPE)
endfunction()

# Of the known ones those that this nvcc can build for, and code that a driver can translate for later GPUs.
function(buildable_architectures result)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-arch OUTPUT_VARIABLE answer RESULT_VARIABLE failed)
  if(failed)
    message(FATAL_ERROR "${CMAKE_CUDA_COMPILER} --list-gpu-arch fails: the kit needs CUDA 11.8 or later")
  endif()
  string(REGEX MATCHALL "compute_[0-9]+" offered "${answer}")
  list(TRANSFORM offered REPLACE "compute_" "")
  foreach(architecture ${known_architectures})
    if(architecture IN_LIST offered)
      list(APPEND found ${architecture}-real)
      set(last ${architecture})
    endif()
  endforeach()
  set(${result} "${found};${last}-virtual" PARENT_SCOPE)
endfunction()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  visible_architectures(architectures)
  if(NOT architectures)
    buildable_architectures(architectures)
  endif()
  set(CMAKE_CUDA_ARCHITECTURES "${architectures}" CACHE STRING "compute capabilities to build for" FORCE)
endif()
message(STATUS "building for GPUs of compute capability ${CMAKE_CUDA_ARCHITECTURES}")

set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
enable_language(CUDA)
set(CMAKE_CUDA_FLAGS_RELEASE "-O3 -DNDEBUG -lineinfo")
add_compile_options("$<$<COMPILE_LANGUAGE:CUDA>:--Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Werror>")
find_package(CUDAToolkit 11.8 REQUIRED)
