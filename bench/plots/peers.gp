# The picture of `./run bench peers`, as SVG and PNG, from peers.csv in a folder:
#   gnuplot -c bench/plots/peers.gp bench/out
folder = ARGC > 0 ? ARG1 : "bench/out"
set datafile separator comma
set encoding utf8
MiB = 2.0**20
table = folder."/peers.csv"

# A column of panels for each model and type, in the order of the file.
pairs = system(sprintf("awk -F, 'NR > 1 && !seen[$1 \" \" $2]++ { print $1 \",\" $2 }' \"%s\"", table))
columns = words(pairs)
model(i) = system(sprintf("echo %s | cut -d, -f1", word(pairs, i)))
dtype(i) = system(sprintf("echo %s | cut -d, -f2", word(pairs, i)))

# Okabe and Ito's colours, which colour-blind readers can tell apart; bars stand in the order of the key, too.
array system_name[5] = ["remat", "remat dots", "pytorch", "pytorch compiled", "jax"]
array title_of[5] = ["remat", "remat, products kept", "PyTorch eager", "PyTorch compiled", "JAX"]
array colour[5] = ["#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#009e73"]
# Rows of a system that ran: place of its bar, time in ms, resident MiB.
rows(i, s) = sprintf("< awk -F, '$1 == \"%s\" && $2 == \"%s\" && $4 == \"%s\" && $9 > 0 { \
  print 6 * $3 + %d \",\" $9 \",\" $14 / %g }' \"%s\"", model(i), dtype(i), system_name[s], s, MiB, table)
# Numbers of the systems that ran, and the largest value of a column.
ran(i) = system(sprintf("awk -F, 'BEGIN { n[\"%s\"] = 1; n[\"%s\"] = 2; n[\"%s\"] = 3; n[\"%s\"] = 4; n[\"%s\"] = 5 } \
  $1 == \"%s\" && $2 == \"%s\" && $9 > 0 && !seen[$4]++ { print n[$4] }' \"%s\"", \
  system_name[1], system_name[2], system_name[3], system_name[4], system_name[5], model(i), dtype(i), table))
largest(i, column) = real(system(sprintf("awk -F, '$1 == \"%s\" && $2 == \"%s\" && $%d > most { most = $%d } \
  END { print most }' \"%s\"", model(i), dtype(i), column, column, table)))

svg = "set terminal svg size %d,%d dynamic font 'DejaVu Sans,Verdana,Arial,sans-serif,12' background '#ffffff' \
  noenhanced; set output folder.'/%s.svg'"
png = "set terminal pngcairo size 2*%d,2*%d font 'DejaVu Sans,12' fontscale 2 linewidth 2 pointscale 2 noenhanced; \
  set output folder.'/%s.png'"
style = "; reset; set border 3 lc rgb '#404040'; set tics nomirror out textcolor rgb '#202020'; \
  set grid ytics lc rgb '#e6e6e6' lt 1 lw 0.6; set datafile separator comma; set encoding utf8"
w = 100 + 290 * (columns < 3 ? 3 : columns); h = 620
picture(format, file) = sprintf(format eq "svg" ? svg : png, w, h, file).style
short(x) = x < 99.5 ? sprintf("%.3g", x) : sprintf("%.0f", x)
threads = system(sprintf("awk -F, 'NR == 2 { print $5 }' \"%s\"", table))

do for [format in "svg png"] {
  eval picture(format, "peers")
  set multiplot layout 2, columns margins screen 85.0 / w, screen 1 - 15.0 / w, screen 40.0 / h, screen 1 - 120.0 / h \
    spacing screen 58.0 / w, screen 44.0 / h
  set label 100 "A training step: time and memory, without and with remat of every layer" \
    at screen 0.015, screen 1 - 24.0 / h font ',14'
  set label 101 sprintf("%s threads, median of rounds in turn; forward, backward, clipping and AdamW", threads) \
    at screen 0.015, screen 1 - 48.0 / h
  set label 107 "time of a step (ms)" at screen 16.0 / w, screen 0.66 center rotate
  set label 108 "peak resident size (MiB)" at screen 16.0 / w, screen 0.25 center rotate
  do for [s = 1:5] {
    set object s rectangle at screen (20.0 + 170 * (s - 1)) / w, screen 1 - 72.0 / h \
      size screen 12.0 / w, screen 12.0 / h fc rgb colour[s] fs solid noborder
    set label 101 + s title_of[s] at screen (32.0 + 170 * (s - 1)) / w, screen 1 - 72.0 / h
  }
  unset key
  set style fill solid noborder
  set boxwidth 0.86
  set xrange [0.2:11.8]
  do for [measure = 1:2] {
    do for [i = 1:columns] {
      set yrange [0:1.14 * (measure == 1 ? largest(i, 9) : largest(i, 14) / MiB)]
      set title measure == 1 ? model(i).", ".dtype(i) : "" offset 0, -0.5
      set xtics (measure == 1 ? "" : "without remat" 3, measure == 1 ? "" : "with remat" 9) scale 0
      present = ran(i)
      plot for [s in present] rows(i, int(s)) using 1:measure + 1 with boxes lc rgb colour[int(s)], \
           for [s in present] rows(i, int(s)) using 1:measure + 1:(short(column(measure + 1))) with labels \
             offset 0, 0.6 font ',9'
      do for [s = 1:5] { unset object s }
      do for [k = 100:108] { unset label k }
    }
  }
  unset multiplot
}
