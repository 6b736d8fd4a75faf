# Headers as the reference pages show them: no inline namespace, and a comment behind a field is its description.
s/inline namespace REMAT_ABI \{//
s/^\}\}( +\/\/ namespace)/}\1/
s/^\}\}\}( +\/\/ namespace)/}}\1/
s@^(  [^ /][^/]*[;,]) +// (.*)$@\1  ///< \2@
s@^( {10,})// (.*)$@\1///< \2@
