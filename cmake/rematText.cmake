# remat::text = remat::remat with nlohmann_json, PCRE2 and utf8proc, which <remat/text/...> includes. Defined where these
# are found; read by our own build and by the installed package alike.
find_package(nlohmann_json QUIET)
find_path(REMAT_PCRE2_INCLUDE pcre2.h)
find_library(REMAT_PCRE2_LIBRARY pcre2-8)
find_path(REMAT_UTF8PROC_INCLUDE utf8proc.h)
find_library(REMAT_UTF8PROC_LIBRARY utf8proc)
mark_as_advanced(REMAT_PCRE2_INCLUDE REMAT_PCRE2_LIBRARY REMAT_UTF8PROC_INCLUDE REMAT_UTF8PROC_LIBRARY)
if(nlohmann_json_FOUND AND REMAT_PCRE2_INCLUDE AND REMAT_PCRE2_LIBRARY AND REMAT_UTF8PROC_INCLUDE AND
   REMAT_UTF8PROC_LIBRARY AND NOT TARGET remat::text)
  add_library(remat::text INTERFACE IMPORTED GLOBAL)
  target_include_directories(remat::text INTERFACE "${REMAT_PCRE2_INCLUDE}" "${REMAT_UTF8PROC_INCLUDE}")
  target_link_libraries(remat::text INTERFACE remat::remat nlohmann_json::nlohmann_json "${REMAT_PCRE2_LIBRARY}"
                                              "${REMAT_UTF8PROC_LIBRARY}")
endif()
