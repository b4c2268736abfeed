;; A guest that crashes: it adds up a list of orders, and the list is damaged. The third order's link
;; to the next one leads out of memory, four calls deep. In the dump: the orders and their names in
;; memory, the counters in globals, and with --locals every order on the stack.
(module $orders
  (memory (export "memory") 2)

  ;; An order: next, price in cents, count, name.
  (data (i32.const 0x1000) "\20\10\00\00" "\4b\00\00\00" "\04\00\00\00" "apples\00")
  (data (i32.const 0x1020) "\00\00\01\00" "\78\00\00\00" "\02\00\00\00" "bread\00")
  (data (i32.const 0x10000) "\ef\be\ad\de" "\e7\03\00\00" "\01\00\00\00" "cheese\00")

  (global $seen (mut i32) (i32.const 0))
  (global $total (mut f64) (f64.const 0))
  (global $first i32 (i32.const 0x1000))

  (func $price (param $order i32) (result i32)
    (i32.load offset=4 (local.get $order)))

  (func $amount (param $order i32) (result i64)
    (local $count i64)
    (local.set $count (i64.extend_i32_u (i32.load offset=8 (local.get $order))))
    (i64.mul (local.get $count) (i64.extend_i32_u (call $price (local.get $order)))))

  ;; The sum from an order on.
  (func $add_up (param $order i32) (result f64)
    (local $amount f64)
    (if (i32.eqz (local.get $order)) (then (return (f64.const 0))))
    (local.set $amount
      (f64.div (f64.convert_i64_s (call $amount (local.get $order))) (f64.const 100)))
    (global.set $seen (i32.add (global.get $seen) (i32.const 1)))
    (global.set $total (f64.add (global.get $total) (local.get $amount)))
    (f64.add (local.get $amount) (call $add_up (i32.load (local.get $order)))))

  (func $_start (export "_start")
    (drop (call $add_up (global.get $first)))))
