# `cmake --install`: the headers, a package for find_package(remat), and the documentation.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir "${CMAKE_INSTALL_DATADIR}/cmake/remat")

install(TARGETS remat remat_native EXPORT rematTargets FILE_SET HEADERS)
install(EXPORT rematTargets NAMESPACE remat:: DESTINATION "${package_dir}")
configure_package_config_file(cmake/rematConfig.cmake.in "${PROJECT_BINARY_DIR}/rematConfig.cmake"
                              INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/rematConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/rematConfig.cmake" "${PROJECT_BINARY_DIR}/rematConfigVersion.cmake"
              cmake/rematIo.cmake cmake/rematText.cmake cmake/rematDistributed.cmake cmake/rematCompiled.cmake DESTINATION "${package_dir}")
install(DIRECTORY cmake/compiled DESTINATION "${package_dir}")
# README and pages lie as they do here, so that their links hold; the reference where `./run docs` has made it.
install(FILES LICENSE README.md DESTINATION "${CMAKE_INSTALL_DOCDIR}")
install(DIRECTORY docs examples DESTINATION "${CMAKE_INSTALL_DOCDIR}"
        FILES_MATCHING PATTERN "*.md" PATTERN "*.cff" PATTERN "*.svg" PATTERN "*.cpp" PATTERN "*.hpp")
install(DIRECTORY build/docs/html DESTINATION "${CMAKE_INSTALL_DOCDIR}" OPTIONAL)
