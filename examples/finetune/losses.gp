# The picture of `./run finetune`, as SVG and PNG, from the log in a folder:
#   gnuplot -c examples/finetune/losses.gp finetuned
folder = ARGC > 0 ? ARG1 : "finetuned"
set encoding utf8
# Lines of JSON as columns: a step and the loss that `key` names.
pairs(key) = sprintf("< sed -n 's/.*\"step\":\\([0-9]*\\),\"%s\":\\([0-9.e+-]*\\).*/\\1 \\2/p' \"%s/train.jsonl\"", key, folder)

set xlabel "step"
set ylabel "loss, nats a token of the answers"
set grid ytics lc rgb "#dddddd"
set border 3
set tics nomirror
set key top right
do for [kind in "svg png"] {
  if (kind eq "svg") { set terminal svg size 720,420 font "sans,12" background "#ffffff" } else { set terminal pngcairo size 1440,840 font "sans,22" }
  set output sprintf("%s/losses.%s", folder, kind)
  plot pairs("loss") using 1:2 with lines lc rgb "#0072b2" lw 1.5 title "batches that are learned", \
       pairs("held_out_loss") using 1:2 with linespoints lc rgb "#d55e00" lw 2 pt 7 ps 1 title "held out"
}
