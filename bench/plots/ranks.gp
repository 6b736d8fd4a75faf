# The pictures of `./run bench ranks`, as SVG and PNG, from ranks.csv and ranks_context.csv in a folder:
#   gnuplot -c bench/plots/ranks.gp bench/out
folder = ARGC > 0 ? ARG1 : "bench/out"
set encoding utf8
table = folder."/ranks.csv"
model = system(sprintf("head -n 1 \"%s/ranks_run.txt\"", folder))

# Okabe and Ito's colours, which colour-blind readers can tell apart; the shapes serve those who print in black.
blue = "#0072b2"; vermillion = "#d55e00"; grey = "#8c8c8c"
# Ranks of one thread each; then the one process of several threads.
of_ranks = sprintf("< awk -F, 'NR > 1 && ($1 > 1 || $2 == 1)' \"%s\" | sort -t, -n", table)
of_threads = sprintf("< awk -F, 'NR > 1 && $2 > 1' \"%s\"", table)

svg = "set terminal svg size %d,%d dynamic font 'DejaVu Sans,Verdana,Arial,sans-serif,12' background '#ffffff' \
  noenhanced; set output folder.'/%s.svg'"
png = "set terminal pngcairo size 2*%d,2*%d font 'DejaVu Sans,12' fontscale 2 linewidth 2 pointscale 2 noenhanced; \
  set output folder.'/%s.png'"
w = 1020; h = 400
do for [format in "svg png"] {
  eval sprintf(format eq "svg" ? svg : png, w, h, "ranks")
  reset
  set datafile separator comma
  set border 3 lc rgb '#404040'
  set tics nomirror out textcolor rgb '#202020'
  set grid lc rgb '#e6e6e6' lt 1 lw 0.6
  set multiplot layout 1, 3 margins screen 0.07, screen 0.985, screen 0.18, screen 0.76 spacing screen 0.075, screen 0
  set xlabel "ranks of one thread each"
  set xrange [0.5:*]
  set xtics 1
  set yrange [0:*]
  set key top left Left reverse samplen 2
  set offsets 0, 0, graph 0.35, 0
  set label 100 "Training by several processes" at screen 0.015, screen 1 - 24.0 / h font ',14'
  set label 101 model at screen 0.015, screen 1 - 46.0 / h
  set title "tokens a second"
  plot of_ranks using 1:3 with linespoints lc rgb blue lw 2 pt 7 ps 1.1 title "ranks", \
       of_threads using 1:3:2 with labels offset 0, 0.9 notitle, \
       of_threads using 1:3 with points lc rgb vermillion pt 5 ps 1.3 title "one process with threads"
  unset label 100; unset label 101
  set title "memory of a rank (MiB)"
  plot of_ranks using 1:5 with linespoints lc rgb blue lw 2 pt 7 ps 1.1 title "peak of the process", \
       of_ranks using 1:6 with linespoints lc rgb grey lw 2 pt 4 ps 1.1 title "moments"
  set title "communication (% of a step)"
  unset key
  plot of_ranks using 1:(100 * $8) with linespoints lc rgb blue lw 2 pt 7 ps 1.1
  unset multiplot
}

# Ranks that share one sequence.
context = folder."/ranks_context.csv"
if (system(sprintf("test -s \"%s\" && echo yes", context)) ne "yes") exit
of(policy) = sprintf("< awk -F, '$1 == \"%s\"' \"%s\" | sort -t, -k2 -n", policy, context)
all = of("everything"); none = of("nothing"); disk = of("offload(ops(attention))")
each = system(sprintf("awk -F, 'NR > 1 && $2 == 1 { print $3; exit }' \"%s\"", context))
do for [format in "svg png"] {
  eval sprintf(format eq "svg" ? svg : png, w, h, "ranks_context")
  reset
  set datafile separator comma
  set border 3 lc rgb '#404040'
  set tics nomirror out textcolor rgb '#202020'
  set grid lc rgb '#e6e6e6' lt 1 lw 0.6
  set multiplot layout 1, 2 margins screen 0.08, screen 0.985, screen 0.18, screen 0.76 spacing screen 0.09, screen 0
  set xlabel "ranks"
  set xrange [0.5:*]
  set xtics 1
  set yrange [0:*]
  set key top left Left reverse samplen 2
  set offsets 0, 0, graph 0.35, 0
  set label 100 "One sequence that ranks share, by ring attention" at screen 0.015, screen 1 - 24.0 / h font ',14'
  set label 101 sprintf("the same model: memory of activations, their gradients and scratch; at the right %s tokens a rank", each) \
    at screen 0.015, screen 1 - 46.0 / h
  set title "context that fits in the memory of one rank (tokens)"
  plot all using 2:6 with linespoints lc rgb blue lw 2 pt 7 ps 1.1 title "everything kept", \
       none using 2:6 with linespoints lc rgb vermillion lw 2 pt 5 ps 1.1 title "attention kept, all else recomputed", \
       disk using 2:6 with linespoints lc rgb grey lw 2 pt 4 ps 1.1 title "the same, attention on disk"
  unset label 100; unset label 101
  unset key
  set title "memory of a rank (MiB)"
  plot all using 2:4 with linespoints lc rgb blue lw 2 pt 7 ps 1.1, \
       none using 2:4 with linespoints lc rgb vermillion lw 2 pt 5 ps 1.1, \
       disk using 2:4 with linespoints lc rgb grey lw 2 pt 4 ps 1.1
  unset multiplot
}
