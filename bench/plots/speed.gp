# The pictures of `./run bench speed`, each as SVG and PNG, from the CSV files in a folder:
#   gnuplot -c bench/plots/speed.gp bench/out
folder = ARGC > 0 ? ARG1 : "bench/out"
set datafile separator comma
set encoding utf8
model = system(sprintf("head -n 1 \"%s/speed_run.txt\"", folder))
path(name) = sprintf("%s/speed_%s.csv", folder, name)
is_there(name) = int(system(sprintf("test -f \"%s\" && echo 1 || echo 0", path(name))))

# Okabe and Ito's colours, which colour-blind readers can tell apart.
blue = "#0072b2"; green = "#009e73"; orange = "#e69f00"; vermillion = "#d55e00"; grey = "#8c8c8c"

svg = "set terminal svg size %d,%d dynamic font 'DejaVu Sans,Verdana,Arial,sans-serif,12' background '#ffffff' \
  noenhanced; set output folder.'/%s.svg'"
png = "set terminal pngcairo size 2*%d,2*%d font 'DejaVu Sans,12' fontscale 2 linewidth 2 pointscale 2 noenhanced; \
  set output folder.'/%s.png'"
style = "; reset; set border 3 lc rgb '#404040'; set tics nomirror out textcolor rgb '#202020'; \
  set grid lc rgb '#e6e6e6' lt 1 lw 0.6; set datafile separator comma; set encoding utf8"
# `w` and `h` in pixels of the SVG.
picture(format, file, w, h) = sprintf(format eq "svg" ? svg : png, w, h, file).style
headline(text, under, h) = sprintf("set label 100 \"%s\" at screen 0.015, screen 1 - 24.0 / %d font ',14'; \
  set label 101 \"%s\" at screen 0.015, screen 1 - 48.0 / %d", text, h, under, h)
# Horizontal bars of height 0.7 from 0 to $2 in row -$1.
bar = "using (0):1:(0):2:($1 - 0.35):($1 + 0.35) with boxxyerror fs solid noborder"

# --- The step by class of op: name, ms, phase, share of the peak or GB/s; the longest on top.
if (is_there("step")) {
  shown = 18
  ops = sprintf("awk -F, 'NR > 1 && NR <= %d { note = $7 > 0 ? sprintf(\"%%.0f %%%% of peak\", 100 * $9) : \
    $8 > 0 ? sprintf(\"%%.0f GB/s\", $8 / $5 * 1e-6) : \"\"; \
    print 1 - NR \",\" $5 \",\" $1 ($2 ~ /^(update)?$/ ? \"\" : \" \" $2) \",\" $2 \",\" \
    sprintf(\"%%.1f ms; %%.1f %%%%\", $5, 100 * $6) (note == \"\" ? \"\" : \"; \" note) }' \"%s\"", shown + 1, path("step"))
  phase(name) = sprintf("< %s | awk -F, -v OFS=, '$4 == \"%s\"'", ops, name)
  other = sprintf("< %s | awk -F, '$4 != \"forward\" && $4 != \"replay\" && $4 != \"backward\"'", ops)
  count = int(system(ops." | wc -l"))
  phases = int(system(sprintf("%s | grep -c ',replay,' || true", ops))) ? "forward replay backward" : "forward backward"
  colour_of(phase) = phase eq "forward" ? blue : phase eq "replay" ? orange : green
  stats "< ".ops using 2 nooutput
  longest = STATS_max
  h = 146 + 26 * count
  do for [format in "svg png"] {
    eval picture(format, "speed_step", 900, h)
    eval headline("Time of a training step by op", model, h)
    set lmargin 31; set rmargin 3; set tmargin at screen 1 - 90.0 / h; set bmargin at screen 56.0 / h
    set xrange [0:1.38 * longest]
    set yrange [-count - 0.6:-0.4]
    set xlabel "ms of a step" offset 0, 0.5
    set grid noytics
    set key at screen 0.02, screen 1 - 62.0 / h left top Left reverse maxrows 1 samplen 1 width 1
    plot for [p in phases] phase(p) @bar lc rgb colour_of(p) title p, \
         other @bar lc rgb grey title "the rest", \
         "< ".ops using (0):1:ytic(3) with dots notitle, \
         "< ".ops using 2:1:5 with labels left offset 0.6, 0 font ',10' notitle
  }
}

# --- Kernels alone, as shares of what bounds them.
if (is_there("kernels")) {
  rows = sprintf("sed 's/, / /g; s/\"//g' \"%s\" | awk -F, 'NR > 1 { \
    print 1 - NR \",\" 100 * $7 \",\" $1 \" \" $2 \",\" ($5 > 0) \",\" sprintf(\"%%.0f %%%%\", 100 * $7) }'", path("kernels"))
  bound(by) = sprintf("< %s | awk -F, '$4 == %d'", rows, by)
  count = int(system(rows." | wc -l"))
  eval style[3:*]
  stats "< ".rows using 2 nooutput
  largest = STATS_max
  h = 146 + 26 * count
  do for [format in "svg png"] {
    eval picture(format, "speed_kernels", 900, h)
    eval headline("Fused kernels alone, as shares of what bounds them", \
      "the FMA peak and the bandwidth of memory, measured beside", h)
    set lmargin 46; set rmargin 3; set tmargin at screen 1 - 90.0 / h; set bmargin at screen 56.0 / h
    set xrange [0:1.1 * (largest < 100 ? 100 : largest)]
    set yrange [-count - 0.6:-0.4]
    set xlabel "per cent" offset 0, 0.5
    set grid noytics
    set key at screen 0.02, screen 1 - 62.0 / h left top Left reverse maxrows 1 samplen 1 width 1
    plot bound(1) @bar lc rgb blue title "of the FMA peak", \
         bound(0) @bar lc rgb orange title "of memory's bandwidth", \
         "< ".rows using (0):1:ytic(3) with dots notitle, \
         "< ".rows using 2:1:5 with labels left offset 0.6, 0 font ',10' notitle
  }
}

# --- Scaling: a token's time on three axes, and its arithmetic, drawn through the largest model.
if (is_there("scaling")) {
  points(axis) = sprintf("< awk -F, '$1 == \"%s\"' \"%s\"", axis, path("scaling"))
  # A column of the largest model on an axis.
  first(axis) = real(system(sprintf("awk -F, '$1 == \"%s\" { print $2; exit }' \"%s\"", axis, path("scaling"))))
  last(axis, column) = real(system(sprintf("awk -F, '$1 == \"%s\" { x = $%d } END { print x }' \"%s\"", axis, column, \
    path("scaling"))))
  eval style[3:*]
  stats sprintf("< tail -n +2 \"%s\"", path("scaling")) using 6 nooutput
  least = STATS_min; most = STATS_max
  w = 1080; h = 420
  do for [format in "svg png"] {
    eval picture(format, "speed_scaling", w, h)
    set multiplot layout 1, 3 margins screen 75.0 / w, screen 1 - 20.0 / w, screen 55.0 / h, screen 1 - 105.0 / h \
      spacing screen 24.0 / w, 0
    eval headline("Time of a token against length, layers and width", \
      "time grows as written over each panel; in grey the arithmetic of a token, drawn through the largest model", h)
    set logscale xy
    unset mxtics
    set yrange [0.6 * least:1.6 * most]
    set key top left Left reverse samplen 1.5
    set label 102 "microseconds a token" at screen 16.0 / w, screen 0.44 center rotate
    do for [axis in "length layers width"] {
      set title sprintf("%s^%.2f; arithmetic %s^%.2f", axis, last(axis, 9), axis, last(axis, 10)) offset 0, -0.4
      set ytics ()
      do for [k = -1:5] {
        do for [m in "1 2 5"] { set ytics add (axis eq "length" ? sprintf("%g", m * 10.0**k) : "" m * 10.0**k) }
      }
      set xtics ()
      set xrange [0.8 * first(axis):1.25 * last(axis, 2)]
      do for [k = 0:16] { set xtics add (sprintf("%d", 2**k) 2**k) }
      scale = last(axis, 6) / last(axis, 7)
      plot points(axis) using 2:($7 * scale) with lines lc rgb grey lw 1.5 notitle, \
           points(axis) using 2:6 with linespoints lc rgb blue lw 2 pt 7 ps 0.8 notitle
      unset label
    }
    unset multiplot
  }
}
