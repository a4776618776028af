# weft_embed(<target> <file> <header> <constant>): makes <header> with the text of <file> as `inline constexpr char
# <constant>[]`, on the include path of <target>. CMake runs again when <file> changes.
function(weft_embed target file header constant)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  file(READ ${file} text)
  file(CONFIGURE OUTPUT generated/${header} @ONLY CONTENT
    "// Made from ${file}.\n#pragma once\ninline constexpr char ${constant}[] = R\"weft_embed(@text@)weft_embed\";\n")
  target_include_directories(${target} PRIVATE ${CMAKE_BINARY_DIR}/generated)
endfunction()
