;; Two components: `app` passes a name to `names`, by a call through an adapter, and `names` traps.
;;
;; corestream run examples/composed.wat --invoke 'check("ada")'
(component
  (component $names
    (core module $code
      (memory (export "memory") 1)
      (func (export "allocate") (param i32 i32 i32 i32) (result i32)
        i32.const 1024)
      (func $check (export "check") (param $name i32) (param $length i32)
        unreachable))
    (core instance $code (instantiate $code))
    (func (export "check") (param "name" string)
      (canon lift (core func $code "check")
        (memory (core memory $code "memory"))
        (realloc (core func $code "allocate")))))

  (component $app
    (import "check" (func $check (param "name" string)))
    (core module $memory
      (memory (export "memory") 1)
      (func (export "allocate") (param i32 i32 i32 i32) (result i32)
        i32.const 2048))
    (core instance $memory (instantiate $memory))
    (core func $check (canon lower (func $check) (memory (core memory $memory "memory"))))
    (core module $code
      (import "names" "check" (func $check (param i32 i32)))
      (func $main (export "check") (param $name i32) (param $length i32)
        local.get $name
        local.get $length
        call $check))
    (core instance $code (instantiate $code
      (with "names" (instance (export "check" (func $check))))))
    (func (export "check") (param "name" string)
      (canon lift (core func $code "check")
        (memory (core memory $memory "memory"))
        (realloc (core func $memory "allocate")))))

  (instance $names (instantiate $names))
  (instance $app (instantiate $app (with "check" (func $names "check"))))
  (export "check" (func $app "check")))
