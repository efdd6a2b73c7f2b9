# moe_unity: several sources as one translation unit, so that the headers that they share are parsed, and the templates that
# they share are made, once. What keeps files apart that cannot be together is looked up in their text:
#   - they give the same name to things of their own in the namespace scope: functions, types, constants, test suites;
#   - a type in an anonymous namespace has the name of one in a header of the project: the rest of the unit could not say which;
#   - a function in an anonymous namespace has the name of one in a header, and another file of the unit calls that name;
#   - a file defines macros.
# The look is at lines that start in column 0 (clang-format indents all others) and errs on the side of keeping apart.
# Not here: which targets are built so (option MOE_UNITY). A file that leans on what another one includes still compiles in a
# unit; the default build, file by file, does not let that pass.

# The names that the lines in column 0 of `text` declare: types to OUT_types, all others to OUT. Brackets and semicolons would
# confuse CMake's lists.
function(moe_declared_names out text)
  string(REGEX REPLACE "\\[\\[[a-z_]+\\]\\] " "" text "\n${text}")  # [[noreturn]]
  string(REGEX REPLACE "[][;]" "=" text "${text}")
  string(REGEX REPLACE "<[^<>\n]*>" "" text "${text}")
  string(REGEX REPLACE "<[^<>\n]*>" "" text "${text}")
  string(REGEX REPLACE "<[^<>\n]*>" "" text "${text}")
  set(names "")
  set(types "")
  string(REGEX MATCHALL "\n[A-Za-z][^\n]*" lines "${text}")
  foreach(line IN LISTS lines)
    if(line MATCHES "^\n(using json = nlohmann::json|using [a-z]+::)")
      continue()  # the same everywhere
    endif()
    if(line MATCHES "^\n(TEST|TEST_F|TEST_P|TYPED_TEST)\\(([A-Za-z0-9_]+)"
       OR line MATCHES "^\n(struct|class|union|enum class|enum|using) ([A-Za-z0-9_]+)")
      list(APPEND types ${CMAKE_MATCH_2})
    elseif(NOT line MATCHES "^\n(namespace|using namespace|static_assert|extern|[A-Z_]+\\()"
           AND line MATCHES "^\n[^(={]*[ *&]([A-Za-z0-9_]+) *[(={]")  # not X::member(
      list(APPEND names ${CMAKE_MATCH_1})
    endif()
  endforeach()
  list(REMOVE_DUPLICATES names)
  list(REMOVE_DUPLICATES types)
  set(${out} "${names}" PARENT_SCOPE)
  set(${out}_types "${types}" PARENT_SCOPE)
endfunction()

# The text inside of the anonymous namespaces of `text`.
function(moe_anonymous_text out text)
  set(inside "")
  while(TRUE)
    string(FIND "${text}" "\nnamespace {\n" start)
    if(start EQUAL -1)
      break()
    endif()
    string(SUBSTRING "${text}" ${start} -1 text)
    string(FIND "${text}" "\n}  // namespace\n" end)
    string(SUBSTRING "${text}" 0 ${end} part)
    string(APPEND inside "${part}")
    string(SUBSTRING "${text}" 1 -1 text)
  endwhile()
  set(${out} "${inside}" PARENT_SCOPE)
endfunction()

# The names that headers of lib, kernels and tests declare, as global properties.
function(moe_read_headers)
  file(GLOB_RECURSE headers ${PROJECT_SOURCE_DIR}/lib/*.h ${PROJECT_SOURCE_DIR}/kernels/*.h ${PROJECT_SOURCE_DIR}/tests/*.h)
  set(all "")
  foreach(header IN LISTS headers)
    file(READ ${header} text)
    string(APPEND all "\n${text}")
  endforeach()
  moe_declared_names(names "${all}")
  set_property(GLOBAL PROPERTY MOE_HEADER_NAMES "${names}")
  set_property(GLOBAL PROPERTY MOE_HEADER_TYPES "${names_types}")
endfunction()

# Whether two lists have an element in common.
function(moe_in_common out a b)
  set(${out} OFF PARENT_SCOPE)
  foreach(x IN LISTS ${a})
    if(x IN_LIST ${b})
      set(${out} ON PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# Whether `text` calls one of the functions.
function(moe_calls out text functions)
  set(${out} OFF PARENT_SCOPE)
  foreach(f IN LISTS ${functions})
    if(text MATCHES "[^A-Za-z0-9_]${f}\\(")
      set(${out} ON PARENT_SCOPE)
      return()
    endif()
  endforeach()
endfunction()

# What matters of a file: text; names, all that it declares; overloads, its own functions that have the name of one in a header;
# alone, whether it can join no other.
function(moe_look_at file)
  get_property(header_names GLOBAL PROPERTY MOE_HEADER_NAMES)
  get_property(header_types GLOBAL PROPERTY MOE_HEADER_TYPES)
  file(READ ${file} text)
  moe_anonymous_text(anonymous "${text}")
  moe_declared_names(own "${anonymous}")
  moe_in_common(alone own_types header_types)
  if(text MATCHES "\n#define")
    set(alone ON)
  endif()
  moe_declared_names(names "${text}")
  list(APPEND names ${names_types})
  set(overloads "")
  foreach(f IN LISTS own)
    if(f IN_LIST header_names)
      list(APPEND overloads ${f})
    endif()
  endforeach()
  set(alone ${alone} PARENT_SCOPE)
  set(text "${text}" PARENT_SCOPE)
  set(names "${names}" PARENT_SCOPE)
  set(overloads "${overloads}" PARENT_SCOPE)
endfunction()

# Whether the file that moe_look_at described may join a unit: its files, names, overloads and text.
function(moe_may_join out most unit_files unit_names unit_overloads unit_text)
  list(LENGTH unit_files length)
  moe_in_common(clash names unit_names)
  moe_calls(calls "${text}" unit_overloads)
  moe_calls(called "${unit_text}" overloads)
  set(${out} OFF PARENT_SCOPE)
  if(length LESS most AND NOT clash AND NOT calls AND NOT called)
    set(${out} ON PARENT_SCOPE)
  endif()
endfunction()

# moe_unity(OUT PREFIX MOST FILE...): OUT becomes the list of sources to compile: units PREFIX_0.cpp, ... of at most MOST files
# (each file goes into the first unit that it can join), and the files that stay alone. PREFIX_k_files are those of a unit.
function(moe_unity out prefix most)
  get_property(read GLOBAL PROPERTY MOE_HEADER_NAMES SET)
  if(NOT read)
    moe_read_headers()
  endif()
  set(units 0)
  set(sources "")
  foreach(file IN LISTS ARGN)
    moe_look_at(${file})
    if(alone)
      list(APPEND sources ${file})
      continue()
    endif()
    set(k 0)
    while(k LESS units)
      moe_may_join(joins ${most} "${files_${k}}" "${names_${k}}" "${overloads_${k}}" "${text_${k}}")
      if(joins)
        break()
      endif()
      math(EXPR k "${k} + 1")
    endwhile()
    if(k EQUAL units)
      math(EXPR units "${units} + 1")
    endif()
    list(APPEND files_${k} ${file})
    list(APPEND names_${k} ${names})
    list(APPEND overloads_${k} ${overloads})
    string(APPEND text_${k} "${text}")
  endforeach()
  set(k 0)
  while(k LESS units)
    set(unit ${CMAKE_CURRENT_BINARY_DIR}/${prefix}_${k}.cpp)
    list(TRANSFORM files_${k} REPLACE "(.+)" "#include \"\\1\"\n" OUTPUT_VARIABLE includes)
    string(JOIN "" includes ${includes})
    file(CONFIGURE OUTPUT ${unit} CONTENT "${includes}" @ONLY)  # leaves an equal file as it is
    list(APPEND sources ${unit})
    set(${prefix}_${k}_files "${files_${k}}" PARENT_SCOPE)
    math(EXPR k "${k} + 1")
  endwhile()
  set(${out} "${sources}" PARENT_SCOPE)
endfunction()
