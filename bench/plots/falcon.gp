# The picture of `./run bench falcon`, as SVG and PNG, from the CSV files in a folder:
#   gnuplot -c bench/plots/falcon.gp bench/out
folder = ARGC > 0 ? ARG1 : "bench/out"
set datafile separator comma
set encoding utf8
path(name) = sprintf("%s/falcon_%s.csv", folder, name)
is_there(name) = int(system(sprintf("test -f \"%s\" && echo 1 || echo 0", path(name))))

# Okabe and Ito's colours, which colour-blind readers can tell apart.
blue = "#0072b2"; green = "#009e73"; vermillion = "#d55e00"; grey = "#8c8c8c"

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

# --- Three projections over one, by tokens, a panel for each model.
if (is_there("products")) {
  plain = sprintf("sed '1d; s/, / /g; s/\"//g' \"%s\"", path("products"))
  count = int(system(plain." | cut -d, -f1 | uniq | wc -l"))
  model(i) = system(sprintf("%s | cut -d, -f1 | uniq | sed -n %dp", plain, i))
  points(i, phase) = sprintf("< %s | awk -F, '$1 == \"%s\" && $3 == \"%s\"'", plain, model(i), phase)
  stats "< ".plain using 9 nooutput
  low = STATS_min < 0.95 ? STATS_min : 0.95; high = STATS_max > 1.05 ? STATS_max : 1.05
  w = 1080; h = 420
  do for [format in "svg png"] {
    eval picture(format, "falcon_products", w, h)
    set multiplot layout 1, count margins screen 95.0 / w, screen 1 - 20.0 / w, screen 55.0 / h, screen 1 - 105.0 / h \
      spacing screen 24.0 / w, 0
    eval headline("Three projections over one, for query, key and value", \
      "time of three products over that of one, medians of ratios within rounds; above 1 the one is faster", h)
    set logscale x 2
    set yrange [low - 0.03 * (high - low):high + 0.03 * (high - low)]
    set key bottom right samplen 1.5
    set label 102 "three over one" at screen 16.0 / w, screen 0.44 center rotate
    set label 103 "tokens" at screen 0.5, screen 14.0 / h center
    do for [i = 1:count] {
      set title model(i) offset 0, -0.4
      if (i > 1) { set format y ""; unset key }
      plot 1 with lines lc rgb grey lw 1 notitle, \
           points(i, "forward") using 2:9 with linespoints lc rgb blue lw 2 pt 7 ps 0.8 title "forward", \
           points(i, "by x") using 2:9 with linespoints lc rgb green lw 2 pt 5 ps 0.8 title "gradient of x", \
           points(i, "by w") using 2:9 with linespoints lc rgb vermillion lw 2 pt 9 ps 0.8 title "gradient of w"
      unset label
    }
    unset multiplot
  }
}
