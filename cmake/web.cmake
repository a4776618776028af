# Puts the web page into the library: makes page_files.cc, the table that src/serve/page.h declares, from every file of
# web/. Run by a build whenever one of them changes (cmake -P with SOURCE and OUTPUT set), included by a configuration.
if(NOT CMAKE_SCRIPT_MODE_FILE)
  file(GLOB_RECURSE weft_page_files CONFIGURE_DEPENDS web/*)
  add_custom_command(
    OUTPUT ${CMAKE_BINARY_DIR}/generated/page_files.cc
    COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_SOURCE_DIR}/web -DOUTPUT=${CMAKE_BINARY_DIR}/generated/page_files.cc
      -P ${CMAKE_CURRENT_LIST_FILE}
    DEPENDS ${weft_page_files} ${CMAKE_CURRENT_LIST_FILE}
    COMMENT "Embedding web/" VERBATIM)
  list(APPEND weft_sources ${CMAKE_BINARY_DIR}/generated/page_files.cc)
  return()
endif()

set(type_html "text/html; charset=utf-8")
set(type_js "text/javascript; charset=utf-8")
set(type_css "text/css; charset=utf-8")
set(type_txt "text/plain; charset=utf-8")
set(type_svg "image/svg+xml")

# Sets `out` to the initializer list of a file's bytes.
function(bytes_of file out)
  file(READ ${file} hex HEX)
  if(file MATCHES "\\.gz$")  # the time that gzip notes (bytes 4 to 7) would make every build differ
    string(SUBSTRING ${hex} 0 8 head)
    string(SUBSTRING ${hex} 16 -1 tail)
    set(hex ${head}00000000${tail})
  endif()
  string(REGEX REPLACE "(..)" "0x\\1," hex ${hex})
  set(${out} ${hex} PARENT_SCOPE)
endfunction()

file(GLOB_RECURSE files RELATIVE ${SOURCE} ${SOURCE}/*)
list(FILTER files EXCLUDE REGEX "\\.md$")
set(arrays "")
set(table "")
set(index 0)
foreach(file ${files})
  string(REGEX MATCH "[a-z]+$" extension ${file})
  if(NOT DEFINED type_${extension})
    message(FATAL_ERROR "web/${file}: cmake/web.cmake knows no content type for .${extension}")
  endif()
  set(path "/page/${file}")
  if(file STREQUAL "index.html")
    set(path "/")
  endif()
  file(ARCHIVE_CREATE OUTPUT ${OUTPUT}.gz PATHS ${SOURCE}/${file} FORMAT raw COMPRESSION GZip COMPRESSION_LEVEL 9)
  bytes_of(${SOURCE}/${file} plain)
  bytes_of(${OUTPUT}.gz packed)
  file(SHA256 ${SOURCE}/${file} hash)
  string(SUBSTRING ${hash} 0 16 etag)
  string(APPEND arrays "constexpr unsigned char kPlain${index}[] = {${plain}};\n"
    "constexpr unsigned char kGzip${index}[] = {${packed}};\n")
  string(APPEND table
    "    {\"${path}\", \"${type_${extension}}\", \"W/\\\"${etag}\\\"\", text(kPlain${index}), text(kGzip${index})},\n")
  math(EXPR index "${index} + 1")
endforeach()
file(REMOVE ${OUTPUT}.gz)
file(WRITE ${OUTPUT} "// Made from web/ by cmake/web.cmake.
#include \"serve/page.h\"

namespace weft {
namespace {

${arrays}
template <size_t N>
std::string_view text(const unsigned char (&bytes)[N]) {
  return {reinterpret_cast<const char*>(bytes), N};
}

}  // namespace

std::span<const PageFile> page_files() {
  static const PageFile files[] = {
${table}  };
  return files;
}

}  // namespace weft
")
