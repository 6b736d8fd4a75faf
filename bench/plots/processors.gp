# The picture of what was measured on each processor, as SVG and PNG, from processors.csv, whose ratios come from
# `./run bench peers`:
#   gnuplot -c bench/plots/processors.gp docs/pictures
folder = ARGC > 0 ? ARG1 : "docs/pictures"
set datafile separator comma
set encoding utf8
table = folder."/processors.csv"

# A row of the picture for each model and type, one mark for each processor, both in the order of the file.
models = "gpt27,float32 gpt2,float32 nanogpt,float32 long,float32 attention512,float32 attention2048,float32 gpt27,bfloat16"
array label[7] = ["GPT, 27.6 M", "GPT-2, 124 M", "nanoGPT's CPU model", "context 8192", "attention, length 512", \
  "attention, length 2048", "GPT, 27.6 M, bfloat16"]
lines = int(system(sprintf("awk -F'\"' 'NR > 1 && !seen[$2]++' \"%s\" | wc -l", table)))
processor(p) = system(sprintf("awk -F'\"' 'NR > 1 && !seen[$2]++ && ++n == %d { print $2 }' \"%s\"", p, table))
date(p) = system(sprintf("awk -F'\"' 'NR > 1 && !seen[$2]++ && ++n == %d { split($3, f, \",\"); print f[2] }' \"%s\"", p, table))
# Ratio and row of the picture of each measurement on one processor.
marks(p) = sprintf("< awk -F'\"' -v models=\"%s\" 'BEGIN { n = split(models, m, \" \"); for (i = 1; i <= n; ++i) row[m[i]] = n - i } \
  $2 == \"%s\" { split($3, f, \",\"); print f[5] \",\" row[f[3] \",\" f[4]] }' \"%s\"", models, processor(p), table)

# Okabe and Ito's colours, which colour-blind readers can tell apart; the shapes serve those who print in black.
array colour[6] = ["#8c8c8c", "#e69f00", "#009e73", "#56b4e9", "#0072b2", "#d55e00"]
array shape[6] = [4, 9, 5, 6, 7, 11]

svg = "set terminal svg size %d,%d dynamic font 'DejaVu Sans,Verdana,Arial,sans-serif,12' background '#ffffff' \
  noenhanced; set output folder.'/processors.svg'"
png = "set terminal pngcairo size 2*%d,2*%d font 'DejaVu Sans,12' fontscale 2 linewidth 2 pointscale 2 noenhanced; \
  set output folder.'/processors.png'"
w = 1020; h = 390
do for [format in "svg png"] {
  eval sprintf(format eq "svg" ? svg : png, w, h)
  set label 2 "Time of a training step over that of the faster PyTorch 2.13, eager or compiled" \
    at screen 16.0 / w, screen 1 - 22.0 / h font ',14'
  set label 3 "two threads, medians of rounds in turn; left is faster" at screen 16.0 / w, screen 1 - 44.0 / h
  set tmargin screen 1 - 66.0 / h; set bmargin screen 40.0 / h
  set lmargin screen 205.0 / w; set rmargin screen 1 - 335.0 / w
  set border 1 lc rgb '#404040'
  set tics nomirror out textcolor rgb '#202020' scale 0.5
  set grid lc rgb '#e6e6e6' lt 1 lw 0.6
  set xrange [0:1.05]
  set xtics 0.2 format "%.1f"
  set yrange [-0.6:6.6]
  unset ytics
  set ytics scale 0
  do for [i = 1:7] { set ytics add (label[i] 7 - i) }
  set arrow 1 from 1, graph 0 to 1, graph 1 nohead lc rgb '#404040' lw 1.2
  set label 1 "PyTorch" at 0.993, -0.4 right textcolor rgb '#404040' font ',10'
  set key at screen 1 - 320.0 / w, screen 1 - 80.0 / h left top reverse Left samplen 1 spacing 1.3
  plot for [p = 1:lines] marks(p) using 1:($2 + 0.1 * (0.5 * lines + 0.5 - p)) with points pt shape[p] ps 1.3 lw 2 lc rgb colour[p] \
    title sprintf("%s, %s", processor(p), date(p))
}
