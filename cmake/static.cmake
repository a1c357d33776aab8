# SPARING_STATIC: a program that needs nothing of the machine but glibc. scripts/static-deps makes the libraries that Debian
# has no usable archive of; the others come from the -dev packages. glibc stays shared: it loads what looks up names of hosts,
# and CUDA's kernels come by dlopen.
option(SPARING_STATIC "link everything but glibc statically (scripts/static-deps first)" OFF)
set(SPARING_STATIC_DEPS ${CMAKE_SOURCE_DIR}/build/static-deps CACHE PATH "what scripts/static-deps made")

if(SPARING_STATIC)
  if(NOT EXISTS ${SPARING_STATIC_DEPS}/LICENSES)
    message(FATAL_ERROR "SPARING_STATIC: ${SPARING_STATIC_DEPS} is not complete; run scripts/static-deps first")
  endif()
  configure_file(${SPARING_STATIC_DEPS}/LICENSES ${CMAKE_BINARY_DIR}/LICENSES COPYONLY)
  set(ENV{PKG_CONFIG_PATH} ${SPARING_STATIC_DEPS}/lib/pkgconfig)
  set(PKG_CONFIG_ARGN --static)
  set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
  set_source_files_properties(src/cmd/tools.c PROPERTIES COMPILE_DEFINITIONS SP_STATIC)
  add_link_options(-static-libgcc -Wl,--gc-sections,-z,text)
endif()

# The archives that FOUND, a list of libraries as pkg-config names them, stands for: ours before the system's, glibc's left out.
function(sparing_archives out found)
  set(archives "")
  foreach(library ${found})
    get_filename_component(name ${library} NAME)
    string(REGEX REPLACE "^(lib|-l)([^ ]*)$" "\\2" name ${name})
    string(REGEX REPLACE "[.]a$" "" name ${name})
    if(name MATCHES "^(m|dl|rt|pthread|-pthread)$")
      continue()
    endif()
    execute_process(COMMAND ${CMAKE_C_COMPILER} -L${SPARING_STATIC_DEPS}/lib -print-file-name=lib${name}.a
      OUTPUT_VARIABLE file OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
    if(EXISTS ${SPARING_STATIC_DEPS}/lib/lib${name}.a)
      set(file ${SPARING_STATIC_DEPS}/lib/lib${name}.a)
    elseif(NOT IS_ABSOLUTE ${file})
      message(FATAL_ERROR "SPARING_STATIC: there is no lib${name}.a")
    endif()
    list(APPEND archives ${file})
  endforeach()
  list(REMOVE_DUPLICATES archives)
  set(${out} ${archives} PARENT_SCOPE)
endfunction()

# Gives what PkgConfig::DEPS, GMIME and PkgConfig::EDIT link to the first of them, as archives that may need each other.
function(sparing_link_archives)
  get_target_property(deps PkgConfig::DEPS INTERFACE_LINK_LIBRARIES)
  get_target_property(edit PkgConfig::EDIT INTERFACE_LINK_LIBRARIES)
  # libidn2 does not say that it needs libunistring.
  sparing_archives(archives "${deps};${GMIME_LINK_LIBRARIES};${edit};unistring")
  set_target_properties(PkgConfig::DEPS PROPERTIES
    INTERFACE_LINK_LIBRARIES "-Wl,--start-group;${archives};-Wl,--end-group;m")
  set_target_properties(PkgConfig::EDIT PROPERTIES INTERFACE_LINK_LIBRARIES "")
  set(GMIME_LINK_LIBRARIES "" PARENT_SCOPE)
endfunction()
