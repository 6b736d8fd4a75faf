# Pages as GitHub shows them, for Doxygen.
/^<!-- compile: .* -->$/d
s/^```cpp$/```{.cpp}/
s/^```cmake$/```{.cmake}/
