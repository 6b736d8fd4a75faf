# The picture of `./run bench long`, as SVG and PNG, from the CSV files in a folder:
#   gnuplot -c bench/plots/long.gp bench/out
folder = ARGC > 0 ? ARG1 : "bench/out"
set datafile separator comma
set encoding utf8
MiB = 2.0**20
model = system(sprintf("head -n 1 \"%s/long_run.txt\"", folder))
name = "plain fused blockwise offloaded"
what = "'plain attention' 'fused, remat' 'blockwise, remat' 'blockwise, offloaded'"

# Okabe and Ito's colours, which colour-blind readers can tell apart; the shapes serve those who print in black.
array colour[4] = ["#8c8c8c", "#e69f00", "#0072b2", "#d55e00"]
array rgb[4] = [0x8c8c8c, 0xe69f00, 0x0072b2, 0xd55e00]
array shape[4] = [4, 7, 5, 9]

# Rows of one variant, in order of their second column, so that lines are not torn.
longest(i, layers) = sprintf("< awk -F, '$1 == %d && $2 == \"%s\" && $4 > 0' \"%s/long.csv\"", layers, word(name, i), folder)
speed(i) = sprintf("< awk -F, '$1 == \"%s\" && $7 != \"\"' \"%s/long_speed.csv\" | sort -t, -k2n", word(name, i), folder)
# Those that were run by themselves, each with the number of its variant.
single = sprintf("< awk -F, -v names=\"%s\" 'BEGIN { split(names, n, \" \"); for (i in n) of[n[i]] = i } \
  NR > 1 && $7 == \"\" { print of[$1] FS $2 FS $6 }' \"%s/long_speed.csv\"", name, folder)
singles = int(system(sprintf("awk -F, 'NR > 1 && $7 == \"\"' \"%s/long_speed.csv\" | wc -l", folder)))
plans = sprintf("< awk -F, 'NR > 1 && $4 > 0' \"%s/long.csv\"", folder)

# The first row has the model that was run, the last one the deep one.
stats plans using 1:($3 / MiB) nooutput
least_memory = STATS_min_y; most_memory = STATS_max_y
stats plans using (deep = $1) nooutput
stats plans using 1 every ::0::0 nooutput
layers = STATS_max
stats plans using ($1 == layers ? $4 : NaN) nooutput
shortest = STATS_min; furthest = STATS_max
stats sprintf("< tail -n +2 \"%s/long_speed.csv\"", folder) using 2:6 nooutput
shortest_run = STATS_min_x; longest_run = STATS_max_x; slowest = STATS_min_y; fastest = STATS_max_y

array end[4]; array deep_end[4]
do for [i = 1:4] {
  stats longest(i, layers) using 4 nooutput
  end[i] = STATS_max
  stats longest(i, deep) using 4 nooutput
  deep_end[i] = STATS_max
}

svg = "set terminal svg size %d,%d dynamic font 'DejaVu Sans,Verdana,Arial,sans-serif,12' background '#ffffff' \
  noenhanced; set output folder.'/%s.svg'"
png = "set terminal pngcairo size 2*%d,2*%d font 'DejaVu Sans,12' fontscale 2 linewidth 2 pointscale 2 noenhanced; \
  set output folder.'/%s.png'"
style = "; reset; set border 3 lc rgb '#404040'; set tics nomirror out textcolor rgb '#202020'; \
  set grid lc rgb '#e6e6e6' lt 1 lw 0.6; set datafile separator comma; set encoding utf8"
w = 1120; h = 470
picture(format, file) = sprintf(format eq "svg" ? svg : png, w, h, file).style
# Powers of two on an axis, every second one where there are many.
label_of(x) = x < 1024 ? sprintf("%d", x) : sprintf("%dk", x / 1024)
powers(axis, from, to) = sprintf("set %stics (); do for [k = ceil(log(%g) / log(2)):floor(log(%g) / log(2))] { \
  if (%g / %g < 200 || k %% 2 == 0) { set %stics add (label_of(2**k) 2**k) } }", axis, from, to, to, from, axis)

# Names stand at the ends of the lines, from above downwards, and apart.
array at[5] = [4, 3, 2, 3, 1]  # variants
array place[5]
do for [k = 1:5] {
  place[k] = k == 4 ? deep_end[3] : end[at[k]]
  if (k > 1 && place[k] > place[k - 1] / 1.5) { place[k] = place[k - 1] / 1.5 }
}

do for [format in "svg png"] {
  eval picture(format, "long_context")
  set multiplot
  set logscale xy 2
  set label 100 "How long a context fits into how much memory, and how fast it trains" at screen 0.015, screen 1 - 24.0 / h font ",14"
  set label 101 model at screen 0.015, screen 1 - 48.0 / h
  set tmargin at screen 1 - 78.0 / h; set bmargin at screen 66.0 / h

  set lmargin at screen 0.075; set rmargin at screen 0.38
  set xrange [0.9 * least_memory:1.1 * most_memory]
  set yrange [0.75 * shortest:1.5 * furthest]
  set xtics least_memory, 2
  eval powers("y", 0.75 * shortest, 1.5 * furthest)
  set xlabel "memory for activations, their gradients and scratch (MiB)"
  set ylabel "longest context (tokens)" offset -1
  do for [k = 1:5] {
    i = at[k]
    if (k != 4) { set label 10 + k word(what, i) at graph 1.03, first place[k] tc rgb colour[i] }
    if (k == 4 && deep != layers) {
      set label 10 + k sprintf("blockwise, %d layers", deep) at graph 1.03, first place[k] tc rgb colour[i]
    }
  }
  if (deep != layers && deep_end[4] == end[4]) {
    set label 11 sprintf("offloaded, also %d layers", deep)
  }
  unset key
  plot longest(3, deep == layers ? -1 : deep) using ($3 / MiB):4 with lines dt 2 lc rgb colour[3] lw 1.4, \
       for [i = 1:4] longest(i, layers) using ($3 / MiB):4 with linespoints lc rgb colour[i] pt shape[i] ps 0.8 lw 2
  unset label

  set lmargin at screen 0.685; set rmargin at screen 0.985
  set xrange [0.9 * shortest_run:1.15 * longest_run]
  set yrange [0.85 * slowest:1.15 * fastest]
  eval powers("x", 0.9 * shortest_run, 1.15 * longest_run)
  set ytics ("100" 100, "200" 200, "500" 500, "1000" 1000, "2000" 2000, "5000" 5000, "10000" 10000, "20000" 20000, "50000" 50000)
  set xlabel "context (tokens)"
  set ylabel "tokens a second, with AdamW" offset -1.5
  together = "plot for [i = 1:4] speed(i) using 2:6 with linespoints lc rgb colour[i] pt shape[i] ps 0.8 lw 2"
  apart = ", single using 2:3:(0.8):(shape[int($1)]):(rgb[int($1)]) with points ps variable pt variable lc rgb variable"
  if (singles) {
    set label 1 "single points: the longest context within a memory" at graph 1, graph 1.045 right tc rgb "#606060"
  }
  eval together.(singles ? apart : "")
  unset multiplot
}
