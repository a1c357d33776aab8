# make install: the program, its pages and completions, the unit and its user, licences.
# DESTDIR and --prefix are obeyed; a package says where its system keeps units and completions.
include(GNUInstallDirs)
set(SPARING_UNIT_DIR lib/systemd/system CACHE STRING "folder of systemd units")
set(SPARING_ZSH_DIR ${CMAKE_INSTALL_DATADIR}/zsh/site-functions CACHE STRING "folder of zsh completions")

file(STRINGS src/cmd/commands.c lines REGEX "^    {\"[a-z]+\", ")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS src/cmd/commands.c)
set(names "")
foreach(line ${lines})
  string(REGEX REPLACE "^    {\"([a-z]+)\".*" "\\1" name "${line}")
  list(APPEND names ${name})
endforeach()
list(JOIN names "," names)

set(MANUAL ${CMAKE_BINARY_DIR}/manual)
set(run ${CMAKE_CROSSCOMPILING_EMULATOR} $<TARGET_FILE:sparing>)
list(JOIN run "," run)
add_custom_command(OUTPUT ${MANUAL}/stamp
  COMMAND ${CMAKE_COMMAND} "-DSPARING=${run}" -DOUT=${MANUAL} "-DCOMMANDS=${names}" -P ${CMAKE_SOURCE_DIR}/cmake/manual.cmake
  DEPENDS sparing cmake/manual.cmake VERBATIM)
add_custom_target(manual DEPENDS ${MANUAL}/stamp)

install(TARGETS sparing RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${MANUAL}/man1 ${MANUAL}/man5 DESTINATION ${CMAKE_INSTALL_MANDIR})
install(FILES ${MANUAL}/completions/sparing DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)
install(FILES ${MANUAL}/completions/_sparing DESTINATION ${SPARING_ZSH_DIR})
install(FILES ${MANUAL}/completions/sparing.fish DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d)
install(FILES ${MANUAL}/sparing.yaml DESTINATION ${CMAKE_INSTALL_DOCDIR}/examples)
install(FILES LICENSE NOTICE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
if(SPARING_STATIC)
  install(FILES ${CMAKE_BINARY_DIR}/LICENSES DESTINATION ${CMAKE_INSTALL_DOCDIR})
endif()
# The unit names the program where it is installed, which only the install knows.
install(CODE "file(READ \"${CMAKE_SOURCE_DIR}/deploy/systemd/sparing.service\" unit)
string(REPLACE \"/usr/bin/sparing\" \"\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/sparing\" unit \"\${unit}\")
file(WRITE \"${CMAKE_BINARY_DIR}/sparing.service\" \"\${unit}\")")
install(FILES ${CMAKE_BINARY_DIR}/sparing.service DESTINATION ${SPARING_UNIT_DIR})
install(FILES deploy/systemd/sparing.sysusers RENAME sparing.conf DESTINATION lib/sysusers.d)
