# The pictures of `./run bench remat`, each as SVG and PNG, from the CSV files in a folder:
#   gnuplot -c bench/plots/remat.gp bench/out
folder = ARGC > 0 ? ARG1 : "bench/out"
set datafile separator comma
set encoding utf8
MiB = 2.0**20
model = system(sprintf("head -n 1 \"%s/remat_run.txt\"", folder))
# Gnuplot knows nothing of quotes inside a quoted field, and ends the text of one at a comma: so names come from a file
# of their own.
rows = sprintf("< sed \"s/\\\"\\\"/'/g\" \"%s/remat.csv\"", folder)
losses = folder."/remat_loss.csv"
timeline = folder."/remat_timeline.csv"

# Okabe and Ito's colours, which colour-blind readers can tell apart.
blue = "#0072b2"; green = "#009e73"; orange = "#e69f00"; vermillion = "#d55e00"; grey = "#8c8c8c"; pale = "#d9d9d9"

stats rows using 1 skip 1 nooutput
count = int(STATS_max) + 1
array name[count]; array is_budget[count]
array times[count]; array peak[count]; array planned[count]
stats rows using (i = int($1) + 1, is_budget[i] = (strlen(strcol(3)) > 0), times[i] = $6, \
                  peak[i] = $8 / MiB, planned[i] = $9 / MiB, $5) skip 1 nooutput
do for [i = 1:count] { name[i] = system(sprintf("sed -n %dp \"%s/remat_policies.txt\"", i, folder)) }
stats rows using 5 skip 1 every ::0::0 nooutput
first_ms = STATS_max
stats rows using 6 skip 1 nooutput
least_time = STATS_min; most_time = STATS_max
stats rows using ($8 / MiB) skip 1 nooutput
most_peak = STATS_max

svg = "set terminal svg size %d,%d dynamic font 'DejaVu Sans,Verdana,Arial,sans-serif,12' background '#ffffff' \
  noenhanced; set output folder.'/%s.svg'"
png = "set terminal pngcairo size 2*%d,2*%d font 'DejaVu Sans,12' fontscale 2 linewidth 2 pointscale 2 noenhanced; \
  set output folder.'/%s.png'"
style = "; reset; set border 3 lc rgb '#404040'; set tics nomirror out textcolor rgb '#202020'; \
  set grid lc rgb '#e6e6e6' lt 1 lw 0.6; set datafile separator comma; set encoding utf8"
# `w` and `h` in pixels of the SVG.
picture(format, file, w, h) = sprintf(format eq "svg" ? svg : png, w, h, file).style
# Two lines at the upper left: what the picture shows, and of which model.
headline(text, h) = sprintf("set label 100 \"%s\" at screen 0.015, screen 1 - 24.0 / %d font ',14'; \
  set label 101 model at screen 0.015, screen 1 - 48.0 / %d", text, h, h)

# --- Pareto: time against peak. Names stand in a column on the right, moved apart, each with a line to its dot.
from = least_time - 0.06 * (most_time - least_time) - 0.01
to = most_time + 0.08 * (most_time - least_time) + 0.01
height(i) = (times[i] - from) / (to - from)  # of dot i, from 0 at the bottom to 1
array order[count]; array place[count]       # policies from the highest dot down; where the name of each stands
labels = 0
longest_name = 0
do for [i = 1:count] {
  if (!is_budget[i]) {
    labels = labels + 1
    longest_name = strlen(name[i]) > longest_name ? strlen(name[i]) : longest_name
    at = labels
    do for [back = 2:labels] {
      before = labels + 1 - back
      if (at == before + 1 && height(order[before]) < height(i)) { order[at] = order[before]; at = before }
    }
    order[at] = i
  }
}
gap = labels > 1 ? (0.058 < 1.0 / (labels - 1) ? 0.058 : 1.0 / (labels - 1)) : 0
do for [k = 1:labels] {
  place[k] = height(order[k])
  if (k > 1 && place[k] > place[k - 1] - gap) { place[k] = place[k - 1] - gap }
}
do for [back = 1:labels] {  # whatever was pushed below the bottom comes up again
  k = labels + 1 - back
  if (place[k] < (labels - k) * gap) { place[k] = (labels - k) * gap }
}

do for [format in "svg png"] {
  eval picture(format, "remat_pareto", 960, 520)
  eval headline("Time of a step against its memory, under each remat policy", 520)
  set xlabel "measured peak of activations, their gradients and scratch (MiB)"
  set ylabel sprintf("time of forward and backward, times that of\n%s (median %.3g ms)", name[1], first_ms)
  set lmargin 12; set rmargin 4 + 0.95 * longest_name; set tmargin at screen 0.81
  set xrange [0:1.06 * most_peak]
  set yrange [from:to]
  set key at screen 0.06, screen 0.85 left top Left reverse maxrows 1 samplen 2 width -9
  do for [k = 1:labels] {
    set arrow k from peak[order[k]], times[order[k]] to graph 1.02, graph place[k] nohead lc rgb "#b0b0b0" lw 0.7 back
    set label k name[order[k]] at graph 1.03, graph place[k] left noenhanced
  }
  plot rows skip 1 using ($8 / MiB):(strlen(strcol(3)) ? $6 : NaN) with linespoints lc rgb vermillion lw 2 pt 5 ps 0.6 \
         title "plan(step).within(bytes), a sweep of budgets", \
       rows skip 1 using ($8 / MiB):(strlen(strcol(3)) ? NaN : $6) with points lc rgb blue pt 7 ps 1.1 title "policies"
}

# --- Timeline: live bytes over one step, a panel a policy, before the mountain of the first one.
reset
set datafile separator comma
stats timeline using 2 skip 1 nooutput
longest = STATS_max
columns = labels < 4 ? labels : 4
lines = (labels + columns - 1) / columns
tall = 140 + 200 * lines
stats timeline using (l8 = $8, l9 = $9, l10 = $10, $2) skip 1 nooutput
lasting(column) = (column == 8 ? l8 : column == 9 ? l9 : l10) / MiB
decade(x) = 10.0 ** floor(log10(x))
round_down(x) = (x < 2 * decade(x) ? 1 : x < 5 * decade(x) ? 2 : 5) * decade(x)
do for [format in "svg png"] {
  eval picture(format, "remat_timeline", 1120, tall)
  set multiplot layout lines, columns margins screen 0.065, screen 0.99, screen 66.0 / tall, screen 1 - 92.0 / tall \
    spacing screen 0.018, screen 48.0 / tall
  set xrange [0:longest]
  set yrange [0:1.15 * most_peak]
  set ytics round_down(most_peak / 2.5)
  set grid noxtics
  unset key
  eval headline("Live bytes of a step: what is saved (blue), replayed (orange), gradients (green), workspace (red)", tall)
  set label 102 sprintf("ms since the step began; in grey %s. Beside it, always: parameters %.3g, their gradients %.3g, \
optimizer %.3g MiB", name[1], lasting(8), lasting(9), lasting(10)) at screen 0.53, screen 20.0 / tall center
  set label 103 "MiB" at screen 0.015, screen 0.46 center rotate
  panel = 0
  do for [i = 1:count] {
    if (!is_budget[i]) {
      panel = panel + 1
      set title strlen(name[i]) > 30 ? name[i][1:28]."..." : name[i] offset 0, -0.7
      set format y (panel % columns == 1 || columns == 1) ? "%g" : ""
      if (panel > labels - columns) { set xtics nomirror out round_down(longest / 2.5) } else { unset xtics }
      set label 1 sprintf("peak %.1f MiB", peak[i]) at graph 0.98, graph 0.86 right
      plot timeline skip 1 using ($1 == 0 ? $2 : NaN):($3 / MiB) with filledcurves x1 fc rgb pale, \
           timeline skip 1 using ($1 == i - 1 ? $2 : NaN):($3 / MiB) with filledcurves x1 fc rgb vermillion, \
           timeline skip 1 using ($1 == i - 1 ? $2 : NaN):(($4 + $5 + $6) / MiB) with filledcurves x1 fc rgb green, \
           timeline skip 1 using ($1 == i - 1 ? $2 : NaN):(($4 + $5) / MiB) with filledcurves x1 fc rgb orange, \
           timeline skip 1 using ($1 == i - 1 ? $2 : NaN):($4 / MiB) with filledcurves x1 fc rgb blue
      unset label 100; unset label 101; unset label 102; unset label 103
    }
  }
  unset multiplot
}

# --- The plan against the truth.
off = 0.0
do for [i = 1:count] { d = 100 * abs(planned[i] / peak[i] - 1); off = d > off ? d : off }
do for [format in "svg png"] {
  eval picture(format, "remat_planned", 640, 600)
  eval headline("Planned against measured peak: ".(off > 0 ? sprintf("off by at most %.2g %%", off) : "equal to the byte"), 600)
  set lmargin 10; set rmargin 3; set tmargin at screen 0.88
  set xlabel "measured peak (MiB)"; set ylabel "planned peak (MiB)"
  set xrange [0:1.06 * most_peak]; set yrange [0:1.06 * most_peak]
  set key top left Left reverse
  plot x with lines lc rgb grey lw 1 title "planned = measured", \
       rows skip 1 using ($8 / MiB):(strlen(strcol(3)) ? NaN : $9 / MiB) with points lc rgb blue pt 7 ps 1.1 \
         title "policies", \
       rows skip 1 using ($8 / MiB):(strlen(strcol(3)) ? $9 / MiB : NaN) with points lc rgb vermillion pt 4 ps 1.3 lw 1.5 \
         title "plan(step).within(bytes)"
}

# --- Loss curves, which must be one.
reset
set datafile separator comma
difference = 0.0
do for [i = 2:count] {
  stats losses skip 1 using (abs(column(i + 1) - column(2))) nooutput
  difference = STATS_max > difference ? STATS_max : difference
}
do for [format in "svg png"] {
  eval picture(format, "remat_loss", 760, 600)
  set multiplot
  set lmargin 12; set rmargin 3
  set tmargin at screen 0.88; set bmargin at screen 0.42
  eval headline("Training loss under every policy and budget", 600)
  set ylabel "loss (nats a token)"
  set format x ""
  set key top right
  plot losses skip 1 using 1:2 with lines lc rgb orange lw 9 title name[1], \
       for [i = 2:count] losses skip 1 using 1:i + 1 with lines lc rgb blue lw 1.2 \
         title (i == 2 ? sprintf("%d others, one upon another", count - 1) : "")
  unset label
  set tmargin at screen 0.37; set bmargin at screen 0.11
  set format x "%g"
  set xlabel "step"; set ylabel "difference"
  unset key
  if (difference == 0) { set yrange [-1e-7:1e-7]; set ytics ("-1e-7" -1e-7, "0" 0, "1e-7" 1e-7) }
  set label 1 sprintf("largest difference to %s: %g", name[1], difference) at graph 0.98, graph 0.85 right
  plot for [i = 2:count] losses skip 1 using 1:(column(i + 1) - column(2)) with linespoints lc rgb blue pt 7 ps 0.5
  unset multiplot
}
